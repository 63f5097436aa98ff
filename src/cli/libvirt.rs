//! What is asked of libvirt.

use std::collections::HashSet;
use std::fmt;
use std::time::Instant;

use crate::cli::Failure;
use crate::names::DeviceId;

/// A domain's persistent definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its UUID, by which it is found again.
    pub uuid: String,
    /// Its XML.
    pub xml: String,
    /// Whether it runs.
    pub is_active: bool,
}

/// An active domain and the vfio devices that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub domain: String,
    /// The devices.
    pub devices: Vec<DeviceId>,
}

/// What came of starting a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// It started.
    Starts,
    /// It was refused, with these words.
    Refused(String),
}

/// What commands ask of libvirt. An object, so that a program which is not given one does not load
/// libvirt and the fifty libraries that it brings.
pub trait Libvirt: fmt::Debug + Send + Sync {
    /// The persistent definition of a domain, by name or UUID; with its passwords if `secrets`.
    ///
    /// # Errors
    /// There is none, or libvirt can't be reached.
    fn definition(&self, name: &str, secrets: bool) -> Result<Definition, Failure>;

    /// Replaces a definition, if it is still the one that was read. `xml` is validated by libvirt
    /// against its schema.
    ///
    /// # Errors
    /// It has changed since, or libvirt refuses the new one; it is then as it was.
    fn define(&self, before: &Definition, xml: &str) -> Result<(), Failure>;

    /// The active domains.
    ///
    /// # Errors
    /// libvirt can't be reached.
    fn users(&self) -> Result<Vec<User>, Failure>;

    /// Starts a transient domain, paused, and destroys it again.
    ///
    /// # Errors
    /// libvirt can't be reached, allows us nothing, or has not started it at `limit`.
    fn start(&self, xml: &str, uuid: &str, limit: Instant) -> Result<Start, Failure>;

    /// The XML of a node device.
    ///
    /// # Errors
    /// There is none, or libvirt can't be reached.
    fn nodedev_xml(&self, name: &str) -> Result<String, Failure>;

    /// The names of all node devices.
    ///
    /// # Errors
    /// libvirt can't be reached.
    fn nodedev_names(&self) -> Result<HashSet<String>, Failure>;
}

/// No libvirt: this program was built without, or must not need one.
#[derive(Debug, Clone, Copy)]
pub struct Without;

impl Without {
    fn missing<T>(cure: &str) -> Result<T, Failure> {
        let problem = format!("this gfxplane was built or installed without libvirt: {cure}");
        Err(Failure::Environment(problem))
    }
}

impl Libvirt for Without {
    fn definition(&self, _name: &str, _secrets: bool) -> Result<Definition, Failure> {
        Self::missing("give the domain's XML as a file, or - for stdin")
    }

    fn define(&self, _before: &Definition, _xml: &str) -> Result<(), Failure> {
        Self::missing("give the domain's XML as a file, or - for stdin")
    }

    fn users(&self) -> Result<Vec<User>, Failure> {
        Self::missing("start a QEMU of our own with --offline")
    }

    fn start(&self, _xml: &str, _uuid: &str, _limit: Instant) -> Result<Start, Failure> {
        Self::missing("start a QEMU of our own with --offline")
    }

    fn nodedev_xml(&self, _name: &str) -> Result<String, Failure> {
        Self::missing("use --offline")
    }

    fn nodedev_names(&self) -> Result<HashSet<String>, Failure> {
        Self::missing("use --offline")
    }
}

#[cfg(feature = "libvirt")]
pub use with::ByLibrary;

#[cfg(feature = "libvirt")]
mod with {
    use std::collections::HashSet;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use virt::connect::Connect;
    use virt::domain::Domain;
    use virt::error::ErrorNumber;
    use virt::nodedev::NodeDevice;
    use virt::sys;

    use super::{Definition, Libvirt, Start, User};
    use crate::cli::Failure;
    use crate::domain::Domain as View;
    use crate::names::DeviceId;
    use crate::xml::Document;

    /// libvirt by its C library.
    #[derive(Debug, Clone)]
    pub struct ByLibrary {
        uri: String,
    }

    impl ByLibrary {
        /// The one of this URI, or the system's.
        #[must_use]
        pub fn new(uri: Option<&str>) -> Self {
            // libvirt prints every error to stderr by itself, which would say it twice.
            virt::error::clear_error_callback();
            ByLibrary {
                uri: uri.unwrap_or("qemu:///system").into(),
            }
        }

        fn connect(&self) -> Result<Connect, Failure> {
            let cure = "start libvirtd (or virtqemud), name another with -c, or give the domain's XML as a file";
            self.connected(Connect::open(Some(&self.uri)), cure)
        }

        fn read_only(&self) -> Result<Connect, Failure> {
            let cure = "start libvirtd (or virtnodedevd), name another with -c, or use --offline";
            self.connected(Connect::open_read_only(Some(&self.uri)), cure)
        }

        fn connected(
            &self,
            connection: Result<Connect, virt::error::Error>,
            cure: &str,
        ) -> Result<Connect, Failure> {
            connection.map_err(|error| {
                let uri = &self.uri;
                Failure::Environment(format!("libvirt at {uri}: {}: {cure}", error.message()))
            })
        }
    }

    impl Libvirt for ByLibrary {
        fn definition(&self, name: &str, secrets: bool) -> Result<Definition, Failure> {
            let connection = self.connect()?;
            read(&find(&connection, name)?, secrets)
        }

        fn define(&self, before: &Definition, xml: &str) -> Result<(), Failure> {
            let connection = self.connect()?;
            let domain = find(&connection, &before.uuid)?;
            // libvirt has no compare-and-swap: nothing may come between these two.
            if read(&domain, true)?.xml != before.xml {
                return Err(Failure::Environment(
                    "the domain was changed by somebody else meanwhile, and is left as they made it: run this again".into(),
                ));
            }
            let defined = connection.define_domain_xml_flags(xml, sys::VIR_DOMAIN_DEFINE_VALIDATE);
            defined.map(|_| ()).map_err(|error| {
                Failure::Refused(format!(
                    "libvirt refuses the new definition, and the domain is as it was: {}",
                    error.message()
                ))
            })
        }

        fn users(&self) -> Result<Vec<User>, Failure> {
            let connection = self.connect()?;
            let active = connection.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE);
            let active = active.map_err(|error| failed(&error))?;
            // One that ends meanwhile has no XML any more, and no devices.
            let user = |domain: &Domain| {
                Some(User {
                    domain: domain.name().ok()?,
                    devices: devices(&domain.xml_desc(0).ok()?),
                })
            };
            Ok(active.iter().filter_map(user).collect())
        }

        fn start(&self, xml: &str, uuid: &str, limit: Instant) -> Result<Start, Failure> {
            // libvirt destroys it by itself when our connection ends, whatever ends us. The XML is not
            // held against the schema, as that of a domain that is started never is.
            //
            // The call takes as long as QEMU does, and QEMU may hang: so it is made by a thread that
            // can be left behind.
            let (send, answer) = mpsc::channel();
            let connection = self.connect()?;
            let xml = xml.to_owned();
            std::thread::spawn(move || {
                let flags = sys::VIR_DOMAIN_START_PAUSED | sys::VIR_DOMAIN_START_AUTODESTROY;
                let started = connection.create_domain_xml(&xml, flags);
                let result = match &started {
                    Ok(domain) => destroy(domain).map(|()| Start::Starts),
                    Err(error) => refused(error),
                };
                // The connection ends first: what was left for libvirt to do is begun by then.
                drop(started);
                drop(connection);
                let _ = send.send(result);
            });
            if let Ok(result) = answer.recv_timeout(limit.saturating_duration_since(Instant::now()))
            {
                return result;
            }
            // The start holds our connection, and it takes the end of QEMU to end the start.
            if let Ok(connection) = self.connect()
                && let Ok(domain) = connection.lookup_domain_by_uuid_string(uuid)
            {
                let _ = domain.destroy();
            }
            let _ = answer.recv_timeout(PATIENCE);
            Err(Failure::Environment(
                "libvirt had not started the domain in time, and it was destroyed: set --deadline"
                    .into(),
            ))
        }

        fn nodedev_xml(&self, name: &str) -> Result<String, Failure> {
            let connection = self.read_only()?;
            let result = connection
                .lookup_node_device_by_name(name)
                .and_then(|device| device.xml_desc(0));
            result.map_err(|error| failed(&error))
        }

        fn nodedev_names(&self) -> Result<HashSet<String>, Failure> {
            let connection = self.read_only()?;
            let result = connection
                .list_all_node_devices(0)
                .and_then(|devices| devices.iter().map(NodeDevice::name).collect());
            result.map_err(|error| failed(&error))
        }
    }

    fn failed(error: &virt::error::Error) -> Failure {
        Failure::Environment(format!("libvirt: {}", error.message()))
    }

    fn find(connection: &Connect, name: &str) -> Result<Domain, Failure> {
        let by_uuid = || connection.lookup_domain_by_uuid_string(name).ok();
        connection.lookup_domain_by_name(name).or_else(|error| {
            by_uuid().ok_or_else(|| {
                let cure = "a file is named with a slash or ends in .xml";
                Failure::Environment(format!("libvirt: {}; {cure}", error.message()))
            })
        })
    }

    fn read(domain: &Domain, secrets: bool) -> Result<Definition, Failure> {
        let error = |error: virt::error::Error| failed(&error);
        if !domain.is_persistent().map_err(error)? {
            return Err(Failure::Environment(
                "the domain is transient: it has no definition that could be fixed; fix the XML that it is created from".into(),
            ));
        }
        let secure = if secrets {
            sys::VIR_DOMAIN_XML_SECURE
        } else {
            0
        };
        Ok(Definition {
            uuid: domain.uuid_string().map_err(error)?,
            xml: domain
                .xml_desc(sys::VIR_DOMAIN_XML_INACTIVE | secure)
                .map_err(error)?,
            is_active: domain.is_active().map_err(error)?,
        })
    }

    fn devices(xml: &str) -> Vec<DeviceId> {
        let Ok(document) = Document::parse(xml) else {
            return Vec::new();
        };
        View::new(&document).map_or_else(
            |_| Vec::new(),
            |domain| domain.hostdevs.iter().map(|hostdev| hostdev.id).collect(),
        )
    }

    /// How long libvirt may take to give a start up once it was told to.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn destroy(domain: &Domain) -> Result<(), Failure> {
        match domain.destroy() {
            Ok(()) => Ok(()),
            // Somebody else was faster, or QEMU has ended by itself.
            Err(error)
                if error.code().is(ErrorNumber::NoDomain)
                    || error.code().is(ErrorNumber::OperationInvalid) =>
            {
                Ok(())
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// A refusal is about the domain; what libvirt itself lacks, or does not let us do, is not.
    fn refused(error: &virt::error::Error) -> Result<Start, Failure> {
        let not_about_it = [
            ErrorNumber::AccessDenied,
            ErrorNumber::AuthCancelled,
            ErrorNumber::AuthFailed,
            ErrorNumber::AuthUnavailable,
            ErrorNumber::HookScriptFailed,
            ErrorNumber::InvalidConn,
            ErrorNumber::NoConnect,
            ErrorNumber::NoMemory,
            ErrorNumber::NoSupport,
            ErrorNumber::OperationDenied,
            ErrorNumber::OperationTimeout,
            ErrorNumber::Rpc,
        ];
        if not_about_it.iter().any(|number| error.code().is(*number)) {
            Err(failed(error))
        } else {
            Ok(Start::Refused(error.message().into()))
        }
    }
}
