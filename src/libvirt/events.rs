//! Receives libvirt's events through its C library. The `virt` crate has a loop for events, but no
//! function to register for them (`virConnectDomainEventRegisterAny`,
//! `virConnectRegisterCloseCallback`).
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use uuid::Uuid;
use virt::connect::Connect;
use virt::error::Error;
use virt::{event, sys};

use super::{Event, Happened, Sink};

/// Starts the thread that receives events, once for the process; later calls return the first
/// call's result. Connections that were opened before get no events.
pub(super) fn start_loop() -> Result<(), Error> {
    static STARTED: OnceLock<Result<(), Error>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            event::event_register_default_impl()?;
            thread::spawn(|| {
                loop {
                    if event::event_run_default_impl().is_err() {
                        // poll(2) failed for lack of memory. Nothing is lost by waiting.
                        thread::sleep(Duration::from_secs(1));
                    }
                }
            });
            Ok(())
        })
        .clone()
}

/// The registration for the events of one connection, which ends when this value is dropped.
#[derive(Debug)]
pub(super) struct Reports {
    connection: Connect,
    callbacks: Vec<c_int>,
    closing: bool,
}

impl Reports {
    /// Registers `sink` for the events of the connection's domains ([`Happened`]), and for the
    /// connection's end. [`start_loop`] must come before the connection is opened.
    pub(super) fn new(connection: &Connect, sink: &Sink) -> Result<Self, Error> {
        let mut reports = Self::of_end(connection, sink.clone())?;
        // SAFETY: each callback has the signature that libvirt's documentation gives for its event;
        // libvirt casts it back (include/libvirt/libvirt-domain.h, VIR_DOMAIN_EVENT_CALLBACK).
        let (lifecycle, metadata) = unsafe {
            (
                std::mem::transmute::<Lifecycle, Generic>(on_lifecycle),
                std::mem::transmute::<Metadata, Generic>(on_metadata),
            )
        };
        reports.register(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, sink)?;
        reports.register(sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, metadata, sink)?;
        Ok(reports)
    }

    /// Registers `sink` only for the connection's end. [`start_loop`] must come first, as for
    /// [`Self::new`].
    pub(super) fn of_end(connection: &Connect, sink: Sink) -> Result<Self, Error> {
        let mut reports = Reports {
            connection: connection.clone(),
            callbacks: Vec::new(),
            closing: false,
        };
        let opaque = handed_over(sink);
        // SAFETY: the connection is open; `opaque` is a Sink that `free` will free, once.
        let taken = unsafe {
            sys::virConnectRegisterCloseCallback(
                connection.as_ptr(),
                Some(on_close),
                opaque,
                Some(free),
            )
        };
        if taken != 0 {
            let error = Error::last_error();
            // SAFETY: libvirt did not accept the Sink, so it is still ours.
            unsafe { free(opaque) };
            return Err(error);
        }
        reports.closing = true;
        Ok(reports)
    }

    fn register(&mut self, id: u32, callback: Generic, sink: &Sink) -> Result<(), Error> {
        let opaque = handed_over(sink.clone());
        // SAFETY: the connection is open, no domain means all domains, and `opaque` is a Sink, as
        // the callbacks expect, which `free` will free once.
        let callback = unsafe {
            sys::virConnectDomainEventRegisterAny(
                self.connection.as_ptr(),
                std::ptr::null_mut(),
                id as c_int,
                Some(callback),
                opaque,
                Some(free),
            )
        };
        if callback < 0 {
            let error = Error::last_error();
            // SAFETY: libvirt did not accept the Sink, so it is still ours.
            unsafe { free(opaque) };
            return Err(error);
        }
        self.callbacks.push(callback);
        Ok(())
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        // SAFETY: these callbacks belong to this connection, which we hold open. If the connection
        // is lost, the calls fail, and no events will come any more.
        unsafe {
            for callback in &self.callbacks {
                sys::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), *callback);
            }
            if self.closing {
                sys::virConnectUnregisterCloseCallback(self.connection.as_ptr(), Some(on_close));
            }
        }
    }
}

type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
type Lifecycle =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type Metadata =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, *const c_char, *mut c_void);

fn handed_over(sink: Sink) -> *mut c_void {
    Box::into_raw(Box::new(sink)).cast()
}

/// Frees the Sink that [`handed_over`] made.
unsafe extern "C" fn free(opaque: *mut c_void) {
    // SAFETY: libvirt calls this once, with our Sink, when it will call no callback any more.
    drop(unsafe { Box::from_raw(opaque.cast::<Sink>()) });
}

unsafe extern "C" fn on_lifecycle(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let what = match u32::try_from(event) {
        Ok(sys::VIR_DOMAIN_EVENT_DEFINED) => Happened::Defined,
        Ok(sys::VIR_DOMAIN_EVENT_UNDEFINED) => Happened::Undefined,
        Ok(sys::VIR_DOMAIN_EVENT_STARTED) => Happened::Started,
        Ok(sys::VIR_DOMAIN_EVENT_STOPPED) => Happened::Stopped,
        _ => return 0,
    };
    // SAFETY: libvirt passes a domain that lives as long as this call, and our Sink.
    unsafe { report(domain, what, opaque) };
    0
}

unsafe extern "C" fn on_metadata(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _type: c_int,
    _uri: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: as in `on_lifecycle`.
    unsafe { report(domain, Happened::Metadata, opaque) };
}

unsafe extern "C" fn on_close(
    _connection: sys::virConnectPtr,
    _reason: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is the registered Sink, and `free` has not been called.
    let sink = unsafe { &*opaque.cast::<Sink>() };
    sink(Event::Lost);
}

/// Passes an event about a domain to the sink.
///
/// # Safety
/// `domain` is a valid pointer, and `opaque` is one that [`handed_over`] returned.
unsafe fn report(domain: sys::virDomainPtr, what: Happened, opaque: *mut c_void) {
    let mut bytes = uuid::Bytes::default();
    // SAFETY: the domain lives, and the buffer is as large as the call demands.
    if unsafe { sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: the caller promises a Sink, and libvirt does not free it during a callback.
    let sink = unsafe { &*opaque.cast::<Sink>() };
    let uuid = Uuid::from_bytes(bytes);
    sink(Event::Domain { uuid, what });
}
