// The least that a client of libvirt's events can be: the peer of `gfxplane watch`.
//
//   events URI             registers for domain events, and waits
//   events URI OLD NEW     in a definition that is reported and has no "<gl ", the first OLD becomes NEW
//   events URI --pass      reads the definition of every persistent domain once, and ends

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ (VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE)

static const char *old, *new;

static void fix(virConnectPtr connection, virDomainPtr domain)
{
	char *xml = virDomainGetXMLDesc(domain, READ);
	char *place = xml && !strstr(xml, "<gl ") ? strstr(xml, old) : NULL;

	if (place) {
		size_t size = strlen(xml) + strlen(new) + 1;
		char *fixed = malloc(size);
		virDomainPtr defined;

		if (!fixed)
			abort();
		snprintf(fixed, size, "%.*s%s%s", (int)(place - xml), xml, new, place + strlen(old));
		defined = virDomainDefineXML(connection, fixed);
		if (defined)
			virDomainFree(defined);
		free(fixed);
	}
	free(xml);
}

static int happened(virConnectPtr connection, virDomainPtr domain, int event, int detail, void *opaque)
{
	(void)detail;
	(void)opaque;
	if (old && event == VIR_DOMAIN_EVENT_DEFINED)
		fix(connection, domain);
	return 0;
}

static int pass(virConnectPtr connection)
{
	virDomainPtr *domains;
	int count = virConnectListAllDomains(connection, &domains, VIR_CONNECT_LIST_DOMAINS_PERSISTENT);
	size_t bytes = 0;

	if (count < 0)
		return 1;
	for (int i = 0; i < count; i++) {
		char *xml = virDomainGetXMLDesc(domains[i], READ);

		bytes += xml ? strlen(xml) : 0;
		free(xml);
		virDomainFree(domains[i]);
	}
	free(domains);
	printf("%d domains, %zu bytes\n", count, bytes);
	return 0;
}

int main(int argc, char **argv)
{
	virConnectPtr connection;

	if (argc < 2)
		return 2;
	if (virEventRegisterDefaultImpl() < 0)
		return 1;
	connection = virConnectOpen(argv[1]);
	if (!connection)
		return 1;
	if (argc == 3 && !strcmp(argv[2], "--pass"))
		return pass(connection);
	if (argc == 4) {
		old = argv[2];
		new = argv[3];
	}
	if (virConnectDomainEventRegisterAny(connection, NULL, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
					     VIR_DOMAIN_EVENT_CALLBACK(happened), NULL, NULL) < 0)
		return 1;
	for (;;)
		if (virEventRunDefaultImpl() < 0)
			return 1;
}
