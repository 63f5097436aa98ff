//! What is asked of libvirt about domains.

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

#[cfg(feature = "libvirt")]
pub use with::{connect, define, definition};
#[cfg(not(feature = "libvirt"))]
pub use without::{define, definition};

#[cfg(feature = "libvirt")]
mod with {
    use virt::connect::Connect;
    use virt::domain::Domain;
    use virt::sys;

    use super::Definition;
    use crate::cli::Failure;

    /// Connects to libvirt, the system's unless another is named.
    ///
    /// # Errors
    /// It can't be reached.
    pub fn connect(uri: Option<&str>) -> Result<Connect, Failure> {
        // libvirt prints every error to stderr by itself, which would say it twice.
        virt::error::clear_error_callback();
        let uri = uri.unwrap_or("qemu:///system");
        Connect::open(Some(uri)).map_err(|error| {
            let cure = "start libvirtd (or virtqemud), name another with -c, or give the domain's XML as a file";
            Failure::Environment(format!("libvirt at {uri}: {}: {cure}", error.message()))
        })
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

    /// The persistent definition of a domain, by name or UUID.
    ///
    /// # Errors
    /// There is none, or libvirt can't be reached.
    pub fn definition(uri: Option<&str>, name: &str, secrets: bool) -> Result<Definition, Failure> {
        let connection = connect(uri)?;
        read(&find(&connection, name)?, secrets)
    }

    /// Replaces a definition, if it is still the one that was read. `xml` is validated by libvirt
    /// against its schema.
    ///
    /// # Errors
    /// It has changed since, or libvirt refuses the new one; it is then as it was.
    pub fn define(uri: Option<&str>, before: &Definition, xml: &str) -> Result<(), Failure> {
        let connection = connect(uri)?;
        let domain = find(&connection, &before.uuid)?;
        // libvirt has no compare-and-swap: nothing may come between these two.
        if read(&domain, true)?.xml != before.xml {
            return Err(Failure::Environment(
                "the domain was changed by somebody else meanwhile, and is left as they made it: run this again".into(),
            ));
        }
        let defined = connection.define_domain_xml_flags(xml, sys::VIR_DOMAIN_DEFINE_VALIDATE);
        defined.map(|_| ()).map_err(|error| {
            Failure::Environment(format!(
                "libvirt refuses the new definition, and the domain is as it was: {}",
                error.message()
            ))
        })
    }
}

#[cfg(not(feature = "libvirt"))]
mod without {
    use super::Definition;
    use crate::cli::Failure;

    fn missing() -> Failure {
        Failure::Environment(
            "this gfxplane was built without libvirt: give the domain's XML as a file, or - for stdin"
                .into(),
        )
    }

    /// The persistent definition of a domain.
    ///
    /// # Errors
    /// Always: this program was built without libvirt.
    pub fn definition(
        _uri: Option<&str>,
        _name: &str,
        _secrets: bool,
    ) -> Result<Definition, Failure> {
        Err(missing())
    }

    /// Replaces a definition.
    ///
    /// # Errors
    /// Always: this program was built without libvirt.
    pub fn define(_uri: Option<&str>, _before: &Definition, _xml: &str) -> Result<(), Failure> {
        Err(missing())
    }
}
