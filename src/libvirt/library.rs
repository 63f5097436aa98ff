//! The connection to libvirt through its C library.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::{
    Domain, DomainPausedReason, DomainPausedReasonEnum, DomainState, DomainStateEnum,
    DomainStateReason, DomainStateReasonEnum,
};
use virt::error::ErrorNumber;
use virt::nodedev::NodeDevice;
use virt::sys;

use super::events::{self, Reports};
use super::{Definition, Libvirt, New, Replaced, Sink, Start, User};
use crate::device::version::Version;
use crate::domain::{POLICY_NAMESPACE, name_and_devices};
use crate::libvirt::Failure;
use crate::predict::arguments::without_values;
use crate::publish::overview::{Defined, GuestState};

/// The fix if libvirt's node devices can't be listed.
const NO_NODE_DEVICES: &str =
    "start libvirtd (or virtnodedevd), name another with -c, or use --offline";

/// The connection to libvirt through its C library.
#[derive(Debug, Clone)]
pub struct ByLibrary {
    uri: String,
    /// The open connection. If it is `None`, each call opens its own connection.
    open: Option<Arc<Open>>,
}

impl ByLibrary {
    /// Makes a connection to this URI; `None` means the system's libvirt. Opens nothing yet. Keeps
    /// libvirt's library from printing errors in this process.
    pub fn new(uri: Option<&str>) -> Self {
        // libvirt itself prints every error to stderr, so each would appear twice.
        virt::error::clear_error_callback();
        ByLibrary {
            uri: uri.unwrap_or(crate::libvirt::SYSTEM).into(),
            open: None,
        }
    }

    fn connect(&self) -> Result<Connect, Failure> {
        let fix = "start libvirtd (or virtqemud), or name another with -c";
        self.connected(Connect::open, fix)
    }

    /// Returns the open connection, or opens a read-only one. `fix` is the advice for the user if
    /// libvirt does not answer; empty for none.
    fn read_only(&self, fix: &str) -> Result<Connect, Failure> {
        self.connected(Connect::open_read_only, fix)
    }

    fn opened(uri: &str, connection: Connect, reports: Reports) -> Arc<dyn Libvirt> {
        Arc::new(ByLibrary {
            uri: uri.into(),
            open: Some(Arc::new(Open {
                _reports: reports,
                connection,
            })),
        })
    }

    fn connected(
        &self,
        open: fn(Option<&str>) -> Result<Connect, virt::error::Error>,
        fix: &str,
    ) -> Result<Connect, Failure> {
        if let Some(open) = &self.open {
            return Ok(open.connection.clone());
        }
        open(Some(&self.uri)).map_err(|error| {
            let uri = &self.uri;
            let separator = if fix.is_empty() { "" } else { ": " };
            let words = error.message();
            Failure::Environment(format!("libvirt at {uri}: {words}{separator}{fix}"))
        })
    }
}

/// A connection that stays open.
#[derive(Debug)]
struct Open {
    /// The registration for events, which is dropped before the connection.
    _reports: Reports,
    connection: Connect,
}

impl Libvirt for ByLibrary {
    fn definition(&self, name: &str, secrets: bool) -> Result<Definition, Failure> {
        let connection = self.connect()?;
        read(&find(&connection, name)?, secrets)
    }

    fn define(&self, before: &Definition, new: New<'_>) -> Result<Replaced, Failure> {
        let connection = self.connect()?;
        let Some((domain, since)) = unchanged(&connection, before)? else {
            return Ok(Replaced::Changed);
        };
        let whole = |xml, flags| connection.define_domain_xml_flags(xml, flags).map(|_| ());
        let defined = match new {
            New::Checked(xml) => whole(xml, sys::VIR_DOMAIN_DEFINE_VALIDATE),
            New::Whole(xml) => whole(xml, 0),
            New::Graphics(xml) => domain.update_device_flags(xml, sys::VIR_DOMAIN_AFFECT_CONFIG),
        };
        let refusal = "libvirt refuses the new definition, and the domain is as it was";
        replaced(defined, since, refusal)
    }

    fn undefine(&self, definition: &Definition) -> Result<Replaced, Failure> {
        let connection = self.connect()?;
        let Some((domain, since)) = unchanged(&connection, definition)? else {
            return Ok(Replaced::Changed);
        };
        // Without these flags libvirt refuses to undefine a domain that has an NVRAM, and removes
        // the state of its TPM (src/qemu/qemu_driver.c, qemuDomainUndefineFlags). It also refuses
        // if a domain that does not run would lose a saved guest, snapshots or checkpoints.
        let flags = sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | KEEP_TPM;
        let undefined = domain.undefine_flags(flags);
        replaced(undefined, since, "libvirt refuses to undefine it")
    }

    fn persistent(&self, uuid: Uuid) -> Result<Option<Definition>, Failure> {
        let connection = self.connect()?;
        let found = connection.lookup_domain_by_uuid(uuid);
        let definition = found.and_then(|domain| {
            if domain.is_persistent()? {
                definition_of(&domain, true).map(Some)
            } else {
                Ok(None)
            }
        });
        match definition {
            // The domain may disappear between the calls.
            Err(error) if error.code().is(ErrorNumber::NoDomain) => Ok(None),
            other => Ok(other?),
        }
    }

    fn all_persistent(&self) -> Result<Vec<Uuid>, Failure> {
        let connection = self.connect()?;
        let all = connection.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_PERSISTENT)?;
        let uuids: Result<_, virt::error::Error> = all.iter().map(Domain::uuid).collect();
        Ok(uuids?)
    }

    fn guests(&self) -> Result<Option<Vec<Defined>>, Failure> {
        // All this can be read by a user who may not change domains.
        let connection = self.read_only("")?;
        let all = connection.list_all_domains(0)?;
        // A domain that disappears meanwhile is left out.
        let guest = |domain: &Domain| {
            let (state, _) = domain.state().ok()?;
            let state = match state {
                DomainStateEnum::Known(
                    DomainState::Running | DomainState::Blocked | DomainState::Shutdown,
                ) => GuestState::Running,
                DomainStateEnum::Known(DomainState::Paused | DomainState::PMSuspended) => {
                    GuestState::Paused
                }
                DomainStateEnum::Known(DomainState::Shutoff | DomainState::Crashed) => {
                    GuestState::ShutOff
                }
                _ => GuestState::Unknown,
            };
            Some(Defined {
                name: domain.name().ok()?,
                xml: domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).ok()?,
                state,
            })
        };
        Ok(Some(all.iter().filter_map(guest).collect()))
    }

    fn is_running(&self, uuid: Uuid) -> Result<bool, Failure> {
        let connection = self.connect()?;
        let (state, reason) = connection.lookup_domain_by_uuid(uuid)?.state()?;
        let starting = DomainPausedReasonEnum::Known(DomainPausedReason::StartingUp);
        let is_starting =
            reason == DomainStateReasonEnum::Known(DomainStateReason::Paused(starting));
        let runs = matches!(
            state,
            DomainStateEnum::Known(
                DomainState::Running
                    | DomainState::Blocked
                    | DomainState::Paused
                    | DomainState::PMSuspended
            )
        );
        Ok(runs && !is_starting)
    }

    fn is_autostart(&self, uuid: Uuid) -> Result<bool, Failure> {
        let domain = self.connect()?.lookup_domain_by_uuid(uuid)?;
        Ok(domain.autostart()?)
    }

    fn start_persistent(&self, uuid: Uuid) -> Result<(), Failure> {
        let domain = self.connect()?.lookup_domain_by_uuid(uuid)?;
        Ok(domain.create()?)
    }

    fn version(&self) -> Result<Version, Failure> {
        Ok(Version::from_libvirt(self.connect()?.lib_version()?))
    }

    fn domain_capabilities(&self, emulator: Option<&Path>) -> Result<Option<String>, Failure> {
        let path = emulator.map(|path| {
            path.to_str().ok_or_else(|| {
                let path = path.display();
                Failure::Refused(format!("{path}: libvirt accepts only paths in UTF-8"))
            })
        });
        let path = path.transpose()?;
        // A read-only connection may not make libvirt look at an emulator.
        let connection = self.connect()?;
        let found = connection.domain_capabilities(path, None, None, None, 0)?;
        Ok(Some(found))
    }

    fn watch(&self, sink: Sink) -> Result<Arc<dyn Libvirt>, Failure> {
        // The loop comes first, because a connection uses the loop that exists when it is opened.
        events::start_loop()?;
        let connection = self.connect()?;
        let reports = Reports::new(&connection, &sink)?;
        Ok(Self::opened(&self.uri, connection, reports))
    }

    fn stay(&self, uri: &str, sink: Sink) -> Result<Arc<dyn Libvirt>, Failure> {
        events::start_loop()?;
        let connection = Connect::open_read_only(Some(uri))?;
        let reports = Reports::of_end(&connection, sink)?;
        Ok(Self::opened(uri, connection, reports))
    }

    fn lists_nodedevs(&self) -> Result<(), Failure> {
        // Any call waits for this (src/node_device/node_device_driver.c, nodeDeviceInitWait).
        self.read_only(NO_NODE_DEVICES)?
            .num_of_node_devices(None, 0)?;
        Ok(())
    }

    fn set_policy(&self, uuid: Uuid, xml: Option<&str>) -> Result<(), Failure> {
        let connection = self.connect()?;
        // libvirt adds the namespace to the element, and removes all other elements in that
        // namespace (src/conf/domain_conf.c, virDomainDefSetMetadata).
        let domain = connection.lookup_domain_by_uuid(uuid)?;
        let set = domain.set_metadata(
            sys::VIR_DOMAIN_METADATA_ELEMENT as i32,
            xml,
            Some("gfxplane"),
            Some(POLICY_NAMESPACE),
            sys::VIR_DOMAIN_AFFECT_CONFIG,
        );
        set.map_err(|error| {
            let problem = error.message();
            Failure::Refused(format!("libvirt refuses the policy: {problem}"))
        })
    }

    fn users(&self) -> Result<Vec<User>, Failure> {
        let connection = self.connect()?;
        let active = connection.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE)?;
        // A domain that ends meanwhile has no XML and no devices any more.
        let user = |domain: &Domain| {
            Some(User {
                domain: domain.name().ok()?,
                devices: name_and_devices(&domain.xml_desc(0).ok()?).1,
            })
        };
        Ok(active.iter().filter_map(user).collect())
    }

    fn start(&self, xml: &str, uuid: Uuid, is_over: &dyn Fn() -> bool) -> Result<Start, Failure> {
        // libvirt destroys the domain when our connection ends, even if we are killed. As at every
        // start, libvirt does not check the XML against its schema.
        //
        // The call takes as long as QEMU does, and QEMU may hang. So another thread makes the call,
        // and can be left behind.
        let (send, answer) = mpsc::channel();
        let connection = self.connect()?;
        let xml = xml.to_owned();
        std::thread::spawn(move || {
            let flags = sys::VIR_DOMAIN_START_PAUSED | sys::VIR_DOMAIN_START_AUTODESTROY;
            let started = connection.create_domain_xml(&xml, flags);
            let result = match &started {
                Ok(domain) => destroy(domain).map(|()| Start::Starts),
                Err(error) => refused(error.clone()),
            };
            // The connection ends before the answer, so that libvirt has begun to clean up.
            drop(started);
            drop(connection);
            let _ = send.send(result);
        });
        while !is_over() {
            match answer.recv_timeout(SLICE) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // The start uses our connection until QEMU ends, so another connection ends QEMU.
        if let Ok(connection) = self.connect()
            && let Ok(domain) = connection.lookup_domain_by_uuid(uuid)
        {
            let _ = domain.destroy();
        }
        let _ = answer.recv_timeout(PATIENCE);
        Err(Failure::Environment(
            "libvirt had not started the domain in time, and it was destroyed: set --deadline"
                .into(),
        ))
    }

    fn dry_run(&self, xml: &str) -> Result<Option<Start>, Failure> {
        match self.connect()?.domain_xml_to_native("qemu-argv", xml, 0) {
            Ok(_) => Ok(Some(Start::Starts)),
            Err(error) if error.code().is(ErrorNumber::NoSupport) => Ok(None),
            Err(error) => refused(error).map(Some),
        }
    }

    fn nodedev_xml(&self, name: &str) -> Result<String, Failure> {
        let connection = self.read_only(NO_NODE_DEVICES)?;
        Ok(connection.lookup_node_device_by_name(name)?.xml_desc(0)?)
    }

    fn nodedev_names(&self) -> Result<HashSet<String>, Failure> {
        let devices = self.read_only(NO_NODE_DEVICES)?.list_all_node_devices(0)?;
        let names: Result<_, virt::error::Error> = devices.iter().map(NodeDevice::name).collect();
        Ok(names?)
    }
}

/// Makes a failure from libvirt's error, without the values in its text: an error of a start quotes
/// QEMU's arguments, which may contain a secret.
impl From<virt::error::Error> for Failure {
    fn from(error: virt::error::Error) -> Self {
        Failure::Environment(format!("libvirt: {}", without_values(error.message())))
    }
}

/// Returns the domain of a definition, and the time of this check, right after which the caller
/// changes the domain. Returns `None` if the domain is gone, is transient now, or has another
/// definition.
fn unchanged(
    connection: &Connect,
    definition: &Definition,
) -> Result<Option<(Domain, Instant)>, Failure> {
    let domain = match connection.lookup_domain_by_uuid(definition.uuid) {
        Err(error) if error.code().is(ErrorNumber::NoDomain) => return Ok(None),
        found => found?,
    };
    // A running domain that was undefined still has its last definition, and defining it would make
    // it persistent again (src/qemu/qemu_driver.c, qemuDomainUndefineFlags).
    if !domain.is_persistent()? {
        return Ok(None);
    }
    let now = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE)?;
    let since = Instant::now();
    Ok((now == definition.xml).then_some((domain, since)))
}

/// Makes the result of a change from the result of libvirt's call. `since` is the time from
/// [`unchanged`]. `refusal` is the message's beginning if libvirt refused the definition. If the
/// domain is gone, the result is [`Replaced::Changed`].
fn replaced(
    changed: Result<(), virt::error::Error>,
    since: Instant,
    refusal: &str,
) -> Result<Replaced, Failure> {
    let window = since.elapsed();
    match changed {
        Ok(()) => Ok(Replaced::Done { window }),
        Err(error) if error.code().is(ErrorNumber::NoDomain) => Ok(Replaced::Changed),
        Err(error) if is_about_the_definition(&error) => {
            Err(Failure::Refused(format!("{refusal}: {}", error.message())))
        }
        Err(error) => Err(error.into()),
    }
}

fn find(connection: &Connect, name: &str) -> Result<Domain, Failure> {
    let by_uuid = || connection.lookup_domain_by_uuid_string(name).ok();
    connection.lookup_domain_by_name(name).or_else(|error| {
        by_uuid().ok_or_else(|| {
            let fix = "to name a file, write it with a slash or the ending .xml";
            Failure::Environment(format!("libvirt: {}; {fix}", error.message()))
        })
    })
}

fn read(domain: &Domain, secrets: bool) -> Result<Definition, Failure> {
    if !domain.is_persistent()? {
        return Err(Failure::Environment(
            "the domain is transient and has no definition: fix the XML from which it is created"
                .into(),
        ));
    }
    Ok(definition_of(domain, secrets)?)
}

fn definition_of(domain: &Domain, secrets: bool) -> Result<Definition, virt::error::Error> {
    let mut flags = sys::VIR_DOMAIN_XML_INACTIVE;
    if secrets {
        flags |= sys::VIR_DOMAIN_XML_SECURE;
    }
    Ok(Definition {
        uuid: domain.uuid()?,
        xml: domain.xml_desc(flags)?,
        is_active: domain.is_active()?,
    })
}

/// `VIR_DOMAIN_UNDEFINE_KEEP_TPM` (include/libvirt/libvirt-domain.h), which older headers lack.
const KEEP_TPM: u32 = 1 << 6;

/// The time between two checks whether a start must be given up.
const SLICE: Duration = Duration::from_millis(50);

/// The time that we wait for the end of a start after we have destroyed its domain.
const PATIENCE: Duration = Duration::from_secs(30);

fn destroy(domain: &Domain) -> Result<(), Failure> {
    // Somebody else may have been faster, or QEMU may have ended by itself.
    let has_ended = [ErrorNumber::NoDomain, ErrorNumber::OperationInvalid];
    match domain.destroy() {
        Err(error) if !is_one_of(&error, &has_ended) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Returns whether an error means that libvirt refused the definition. Any other error may be
/// temporary: a libvirt that ends meanwhile reports its own end, in several ways.
fn is_about_the_definition(error: &virt::error::Error) -> bool {
    let numbers = [
        ErrorNumber::ConfigUnsupported,
        ErrorNumber::DomExist,
        ErrorNumber::InvalidArg,
        ErrorNumber::OperationInvalid,
        ErrorNumber::ParseFailed,
        ErrorNumber::XmlDetail,
        ErrorNumber::XmlError,
        ErrorNumber::XmlInvalidSchema,
    ];
    is_one_of(error, &numbers)
}

/// Returns a refusal if the error is about the domain, and a failure if it is about libvirt itself
/// or about our rights.
fn refused(error: virt::error::Error) -> Result<Start, Failure> {
    if is_about_libvirt(&error) {
        Err(error.into())
    } else {
        Ok(Start::Refused(without_values(error.message())))
    }
}

fn is_one_of(error: &virt::error::Error, numbers: &[ErrorNumber]) -> bool {
    numbers.iter().any(|number| error.code().is(*number))
}

fn is_about_libvirt(error: &virt::error::Error) -> bool {
    let numbers = [
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
    is_one_of(error, &numbers)
}
