// The least API server that runs Kubernetes' own MutatingAdmissionPolicy: apiextensions-apiserver, which serves custom
// resources out of etcd, with the admission plugins of every API server. Debian has the code of these, and not that of
// kube-apiserver, which brings the built-in kinds. So the policies are custom resources too, and the namespaces are of
// client-go's fake. Nobody has to log in.
package main

import (
	"os"
	"time"

	"github.com/spf13/pflag"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	"k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	namer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/server"
	serveroptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

type clients struct {
	kubernetes.Interface
	namespaces kubernetes.Interface
}

func (c clients) CoreV1() corev1.CoreV1Interface        { return c.namespaces.CoreV1() }
func (c clients) IsWatchListSemanticsUnSupported() bool { return true }

// A plugin waits for the policies, and they for their definitions.
type withoutDefinitions struct{}

func (withoutDefinitions) Initialize(plugin admission.Interface) {
	if plugin, ok := plugin.(initializer.WantsExcludedAdmissionResources); ok {
		plugin.SetExcludedAdmissionResources([]schema.GroupResource{apiextensions.Resource("customresourcedefinitions")})
	}
}

// What the plugins ask for is on this server itself.
func withAdmission(config *server.RecommendedConfig) ([]admission.PluginInitializer, error) {
	namespaces := fake.NewClientset()
	for _, name := range []string{"kubevirt", "shop"} {
		utilruntime.Must(namespaces.Tracker().Add(&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	client := clients{kubernetes.NewForConfigOrDie(config.LoopbackClientConfig), namespaces}
	config.SharedInformerFactory = informers.NewSharedInformerFactory(client, time.Minute)
	plugins := serveroptions.NewAdmissionOptions()
	plugins.DisablePlugins = []string{"MutatingAdmissionWebhook", "ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook"}
	return nil, plugins.ApplyTo(&config.Config, config.SharedInformerFactory, client,
		dynamic.NewForConfigOrDie(config.LoopbackClientConfig), feature.DefaultFeatureGate, config.EffectiveVersion,
		withoutDefinitions{})
}

func must[T any](value T, err error) T {
	utilruntime.Must(err)
	return value
}

func main() {
	o := options.NewCustomResourceDefinitionsServerOptions(os.Stdout, os.Stderr)
	recommended := o.RecommendedOptions
	recommended.Authentication, recommended.Authorization, recommended.CoreAPI, recommended.Admission = nil, nil, nil, nil
	recommended.Features.EnablePriorityAndFairness = false
	recommended.ExtraAdmissionInitializers = withAdmission
	flags := pflag.NewFlagSet("apiserver", pflag.ExitOnError)
	o.AddFlags(flags)
	utilruntime.Must(flags.Parse(os.Args[1:]))
	utilruntime.Must(o.ServerRunOptions.ComponentGlobalsRegistry.Set())
	utilruntime.Must(o.Complete())
	utilruntime.Must(o.Validate())
	config := must(o.Config())
	// kubectl asks for both, which kube-apiserver would serve.
	config.GenericConfig.OpenAPIConfig = server.DefaultOpenAPIConfig(
		openapi.GetOpenAPIDefinitions, namer.NewDefinitionNamer(apiserver.Scheme))
	completed := config.Complete()
	completed.GenericConfig.EnableDiscovery = true
	extensions := must(completed.New(server.NewEmptyDelegate()))
	utilruntime.Must(extensions.GenericAPIServer.PrepareRun().RunWithContext(server.SetupSignalContext()))
}
