//! Makes an empty KVM VM, for drivers that open a device only for a virtual machine.
//!
//! kvmgt looks for the KVM that is associated with the device. It refuses the open (ESRCH) if there
//! is no KVM, or if the KVM belongs to another process (Linux i915/gvt/kvmgt.c,
//! `intel_vgpu_open_device`; arch/x86/kvm/mmu/page_track.c). A VM without memory and processors is
//! enough. It must be associated before the open (virt/kvm/vfio.c, `kvm_vfio_file_add`). Drivers
//! that need no VM ignore it.
#![allow(unsafe_code, missing_docs)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::{
    Result, ioctl_readwrite_bad, ioctl_write_int_bad, ioctl_write_ptr_bad, request_code_none,
    request_code_readwrite, request_code_write,
};

use crate::device::evidence::Step;
use crate::host::Root;
use crate::probe::{Failure, Tell, failed, open};

/// `KVM_DEV_TYPE_VFIO`.
const TYPE_VFIO: u32 = 4;
/// `KVM_DEV_VFIO_FILE`. Before 6.6 this number is `KVM_DEV_VFIO_GROUP`, and accepts only groups.
const FILE: u32 = 1;
/// `KVM_DEV_VFIO_FILE_ADD`.
const FILE_ADD: u64 = 1;

/// Struct `kvm_create_device` of include/uapi/linux/kvm.h.
#[repr(C)]
struct CreateDevice {
    r#type: u32,
    /// The new device's descriptor, written by the kernel.
    fd: u32,
    flags: u32,
}

/// Struct `kvm_device_attr` of include/uapi/linux/kvm.h.
#[repr(C)]
struct DeviceAttr {
    flags: u32,
    group: u32,
    attr: u64,
    addr: u64,
}

const KVMIO: u8 = 0xae;
const CREATE_VM: libc::c_ulong = request_code_none!(KVMIO, 0x01) as libc::c_ulong;
const CREATE_DEVICE: libc::c_ulong =
    request_code_readwrite!(KVMIO, 0xe0, size_of::<CreateDevice>()) as libc::c_ulong;
const SET_DEVICE_ATTR: libc::c_ulong =
    request_code_write!(KVMIO, 0xe1, size_of::<DeviceAttr>()) as libc::c_ulong;

ioctl_write_int_bad!(raw_create_vm, CREATE_VM);
ioctl_readwrite_bad!(raw_create_device, CREATE_DEVICE, CreateDevice);
ioctl_write_ptr_bad!(raw_set_device_attr, SET_DEVICE_ATTR, DeviceAttr);

/// An empty VM associated with one vfio file. Keep the VM until the device is closed. Then close it
/// before you release the device's lock, because the VM has that file open, too.
#[derive(Debug)]
pub(crate) struct Vm {
    /// KVM's vfio device. It is closed first: from Linux 6.6 on, that releases the vfio file.
    _device: OwnedFd,
    _vm: OwnedFd,
}

impl Vm {
    /// Creates a VM and associates `file` with it: a group or a device's own node.
    ///
    /// # Errors
    /// The step that failed and its errno. The reason is always [`Reason::NeedsVm`], because a VM
    /// is created only for a driver that needs one.
    pub(crate) fn of(
        root: &Root,
        file: BorrowedFd<'_>,
        tell: Tell<'_>,
    ) -> std::result::Result<Self, Failure> {
        tell(Step::Kvm);
        let kvm = open(&root.join("dev/kvm")).map_err(failed(Step::Kvm))?;
        tell(Step::KvmVm);
        let vm = create_vm(kvm.as_fd()).map_err(failed(Step::KvmVm))?;
        tell(Step::KvmDevice);
        let device = create_vfio_device(vm.as_fd()).map_err(failed(Step::KvmDevice))?;
        tell(Step::KvmFile);
        add_file(device.as_fd(), file).map_err(failed(Step::KvmFile))?;
        Ok(Vm {
            _device: device,
            _vm: vm,
        })
    }
}

/// Calls `KVM_CREATE_VM` for the default type. Like QEMU, tries again after EINTR.
fn create_vm(kvm: BorrowedFd<'_>) -> Result<OwnedFd> {
    let fd = loop {
        // SAFETY: the argument is a number.
        match unsafe { raw_create_vm(kvm.as_raw_fd(), 0) } {
            Err(Errno::EINTR) => {}
            made => break made?,
        }
    };
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls `KVM_CREATE_DEVICE` for the type that associates vfio files.
fn create_vfio_device(vm: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut create = CreateDevice {
        r#type: TYPE_VFIO,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the struct has the kernel's layout, and lives through the call.
    unsafe { raw_create_device(vm.as_raw_fd(), &raw mut create) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(create.fd.cast_signed()) })
}

/// Calls `KVM_SET_DEVICE_ATTR` with `KVM_DEV_VFIO_FILE_ADD`.
fn add_file(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<()> {
    let fd: RawFd = file.as_raw_fd();
    let attr = DeviceAttr {
        flags: 0,
        group: FILE,
        attr: FILE_ADD,
        addr: (&raw const fd).expose_provenance() as u64,
    };
    // SAFETY: the struct has the kernel's layout. The struct, and the number to which its `addr`
    // points, live through the call, which only reads them.
    unsafe { raw_set_device_attr(device.as_raw_fd(), &raw const attr) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::facts::Reason;
    use std::fs::{File, OpenOptions};

    /// Tries to associate a file that is no vfio file. Returns the failure and the reported steps.
    fn attempt(root: &Root) -> (Failure, Vec<Step>) {
        let mut steps = Vec::new();
        let null = File::open("/dev/null").unwrap();
        let failure = Vm::of(root, null.as_fd(), &mut |step| steps.push(step)).unwrap_err();
        assert_eq!(steps.last(), Some(&failure.step));
        assert_eq!(failure.reason, Reason::NeedsVm);
        (failure, steps)
    }

    #[test]
    fn numbers_and_sizes_of_the_abi() {
        assert_eq!(
            (CREATE_VM, CREATE_DEVICE, SET_DEVICE_ATTR),
            (0xae01, 0xc00c_aee0, 0x4018_aee1)
        );
    }

    #[test]
    fn without_kvm_the_step_is_named() {
        let (_keep, root) = crate::host::empty();
        let (failure, steps) = attempt(&root);
        assert_eq!((failure.errno, steps), (Errno::ENOENT, vec![Step::Kvm]));
        root.put("dev/kvm", "");
        let (failure, steps) = attempt(&root);
        assert_eq!(failure.errno, Errno::ENOTTY);
        assert_eq!(steps, [Step::Kvm, Step::KvmVm]);
    }

    /// Uses the real KVM, if there is one: a VM is created, and its vfio device checks the file.
    #[test]
    #[expect(clippy::print_stderr, reason = "says which of two things was tested")]
    fn the_kvm_of_this_machine() {
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        let (failure, steps) = attempt(&Root::system());
        match kvm {
            Ok(_) => {
                eprintln!("/dev/kvm opens: a VM was made");
                assert_eq!(failure.step, Step::KvmFile, "{}", failure.errno);
                // kvm_vfio_file_add refuses a file that is no vfio file.
                assert_eq!(failure.errno, Errno::EINVAL);
                assert_eq!(steps.len(), 4);
            }
            Err(error) => {
                eprintln!("/dev/kvm does not open ({error}): there is no VM");
                assert_eq!(failure.step, Step::Kvm);
                assert_eq!(Some(failure.errno as i32), error.raw_os_error());
            }
        }
    }
}
