//! Takes away the rights that the child of a probe does not need.
//!
//! Until the device is open, its driver decides which rights the child needs. A group without an
//! IOMMU needs CAP_SYS_RAWIO (Linux drivers/vfio/group.c, `vfio_group_ioctl_get_device_fd`), and a
//! vendor's driver may check for any other. So the rights are taken away in two steps. At the
//! start, [`limit`] takes the rights that no opening needs. Once the device is open, [`give_up`]
//! takes the others. From then on, the child can only use its open files, get memory, and exit.
//!
//! Each of these four means closes a gap that the others leave on some kernel:
//!
//! - seccomp refuses all other system calls, but only on processors that `seccompiler` supports;
//! - Landlock (Linux 5.13; not under udev with systemd before 255, whose service may not call it)
//!   refuses files, other processes and, if the kernel supports it, sockets and signals;
//! - a limit of zero descriptors refuses every new one;
//! - without capabilities, root is a user like any other, and no program that it starts regains
//!   them.
//!
//! Some rights can't be taken away (an old kernel, a service manager that forbids the call). The
//! child then keeps them, and probes the device all the same: its parent has these rights anyway.

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, Scope};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter, sock_filter,
};

/// The largest address space of the child, in bytes. It needs a few million, half of them for the
/// program itself. A driver that returns nonsense must not make it use up the host's memory.
const ADDRESS_SPACE: libc::rlim_t = 256 << 20;

/// The system calls that seccomp allows the child once its device is open: those it needs to ask,
/// to answer, to manage memory and to exit.
const NEEDED: [libc::c_long; 26] = [
    libc::SYS_ioctl,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_sched_yield,
    libc::SYS_timer_delete,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Takes away the rights that opening a device never needs: the child can't gain rights by starting
/// a program, others can't read its memory, and its address space is limited.
///
/// This also prevents a core dump, so that after a crash the device is closed at once.
pub(crate) fn limit() {
    let _ = prctl::set_no_new_privs();
    let _ = prctl::set_dumpable(false);
    let _ = setrlimit(Resource::RLIMIT_AS, ADDRESS_SPACE, ADDRESS_SPACE);
}

/// Takes all rights from this thread except to use its open files, to get memory and to exit. Call
/// it only in a process that has nothing else to do and no other thread.
pub(crate) fn give_up() {
    // This comes before the limit, because the ruleset is a descriptor.
    let _ = no_files_or_others();
    let _ = setrlimit(Resource::RLIMIT_NOFILE, 0, 0);
    // This clears the permitted capabilities, and with them the effective ones.
    let _ = caps::clear(None, caps::CapSet::Permitted);
    // This comes last, because it forbids all of the above.
    let _ = only_what_is_needed();
}

/// Uses Landlock to refuse opening, making, removing and executing files, tracing other processes,
/// and TCP ports; from Linux 6.12 on, also abstract sockets and signals to other processes.
fn no_files_or_others() -> Result<(), RulesetError> {
    // By default, the crate leaves out what the kernel does not support.
    let newest = ABI::V6;
    Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .restrict_self()?;
    Ok(())
}

/// Uses seccomp to refuse system calls other than [`NEEDED`] with EPERM. Does not kill the process,
/// because the C library may try another call and can do without it.
fn only_what_is_needed() -> Result<(), seccompiler::Error> {
    let rules = NEEDED.map(|call| (call, Vec::new())).into();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let processor = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, processor)?;
    let program = BpfProgram::try_from(filter)?;
    // With systemd before 255, udev's service may not call seccomp(2). prctl(2) is the older way.
    apply_filter(&program).or_else(|error| by_prctl(&program).map_err(|_| error))
}

/// Installs a seccomp filter by prctl(2). Fails unless the process has no_new_privs or
/// CAP_SYS_ADMIN.
#[allow(unsafe_code)]
fn by_prctl(program: &[sock_filter]) -> nix::Result<()> {
    let whole = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel copies the program and keeps no pointer (kernel/seccomp.c,
    // seccomp_prepare_user_filter). Both types are struct sock_filter of linux/filter.h in C's
    // form.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const whole,
        )
    };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io;
    use std::net::TcpListener;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};
    use std::thread;

    use caps::{CapSet, Capability, has_cap};
    use landlock::{CompatLevel, Compatible};
    use nix::sys::signal::kill;
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    use nix::unistd::{getppid, pipe};

    use crate::device::evidence::Step;
    use crate::probe::queries;

    /// Runs `inside` in a process of its own, which runs this test again, because rights that are
    /// given up never come back.
    fn in_a_process(test: &str, inside: fn()) {
        const INSIDE: &str = "GFXPLANE_TEST_RIGHTS";
        if std::env::var_os(INSIDE).is_some() {
            return inside();
        }
        let (_, module) = module_path!().split_once("::").unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", &format!("{module}::{test}")])
            .env(INSIDE, "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{complaint}");
        assert!(said.contains("1 passed"), "{said}{complaint}");
    }

    /// Returns a path to which only this process writes.
    fn own_path() -> std::path::PathBuf {
        std::env::temp_dir().join(format!("gfxplane-rights-{}", std::process::id()))
    }

    type Attempt = (&'static str, fn() -> io::Result<()>);

    /// Acts that a process can do but the child must not, each by another system call. These acts
    /// open a path.
    const BY_PATH: [Attempt; 4] = [
        ("open a file", || File::open("/etc/passwd").map(drop)),
        ("list a directory", || fs::read_dir("/").map(drop)),
        ("make a file", || {
            File::create(own_path())?;
            fs::remove_file(own_path())
        }),
        ("see another's descriptors", || {
            fs::read_dir(format!("/proc/{}/fd", getppid())).map(drop)
        }),
    ];

    /// These acts make other descriptors.
    const BY_DESCRIPTOR: [Attempt; 3] = [
        ("make a pipe", || Ok(pipe().map(drop)?)),
        ("make a socket", || UnixDatagram::unbound().map(drop)),
        ("listen on a port", || {
            TcpListener::bind("127.0.0.1:0").map(drop)
        }),
    ];

    /// These acts do something else.
    const BY_PROCESS: [Attempt; 3] = [
        ("start a program", || {
            Command::new("true").status().map(drop)
        }),
        ("start a thread", || {
            let thread = thread::Builder::new().spawn(|| {})?;
            thread.join().map_err(|_| io::ErrorKind::Other.into())
        }),
        ("signal another process", || Ok(kill(getppid(), None)?)),
    ];

    fn all() -> impl Iterator<Item = Attempt> {
        BY_PATH.into_iter().chain(BY_DESCRIPTOR).chain(BY_PROCESS)
    }

    fn are_possible() {
        for (what, attempt) in all() {
            attempt().unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }

    #[track_caller]
    fn are_refused(attempts: impl IntoIterator<Item = Attempt>, by: Errno) {
        for (what, attempt) in attempts {
            let errno = attempt().err().and_then(|error| error.raw_os_error());
            assert_eq!(errno.map(Errno::from_raw), Some(by), "{what}");
        }
    }

    /// This test asks a device, to show that no question is asked with more rights.
    #[test]
    fn who_asks_a_device_can_do_nothing_else() {
        in_a_process("who_asks_a_device_can_do_nothing_else", || {
            are_possible();
            let null = File::open("/dev/null").unwrap();
            let mut steps = Vec::new();
            let failure = queries::ask(&null, &mut |step| steps.push(step));
            assert_eq!(failure.unwrap_err().errno, Errno::ENOTTY);
            assert_eq!(steps, [Step::Info]);
            are_refused(all(), Errno::EPERM);
            // The child can still do what it needs: allocate and free memory, write, and exit.
            let mut answer = vec![7; 1 << 20];
            answer.resize(4 << 20, 7);
            answer.truncate(10);
            answer.shrink_to_fit();
            drop((null, answer));
        });
    }

    /// In this test, a service manager's filter refuses seccomp(2) and Landlock.
    #[test]
    fn a_filter_is_also_installed_without_its_call() {
        in_a_process("a_filter_is_also_installed_without_its_call", || {
            are_possible();
            prctl::set_no_new_privs().unwrap();
            let calls = [libc::SYS_seccomp, libc::SYS_landlock_create_ruleset];
            let rules = calls.map(|call| (call, Vec::new())).into();
            let refuse = SeccompAction::Errno(libc::EPERM as u32);
            let processor = TargetArch::try_from(std::env::consts::ARCH).unwrap();
            let filter =
                SeccompFilter::new(rules, SeccompAction::Allow, refuse, processor).unwrap();
            apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
            are_possible();
            give_up();
            are_refused(all(), Errno::EPERM);
        });
    }

    /// This test does not use seccomp, which hides in the tests above whether Landlock works.
    #[test]
    #[expect(clippy::print_stderr, reason = "says that nothing was tested")]
    fn landlock_alone_refuses_all_that_has_a_path() {
        let all = AccessFs::from_all(ABI::V1);
        let needed = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        if let Err(error) = needed.handle_access(all).and_then(Ruleset::create) {
            eprintln!("this kernel has no Landlock: {error}");
            return;
        }
        in_a_process("landlock_alone_refuses_all_that_has_a_path", || {
            are_possible();
            prctl::set_no_new_privs().unwrap();
            no_files_or_others().unwrap();
            are_refused(BY_PATH, Errno::EACCES);
            are_refused([BY_PROCESS[0]], Errno::EACCES);
        });
    }

    #[test]
    fn no_descriptor_is_made() {
        in_a_process("no_descriptor_is_made", || {
            are_possible();
            setrlimit(Resource::RLIMIT_NOFILE, 0, 0).unwrap();
            are_refused(BY_PATH.into_iter().chain(BY_DESCRIPTOR), Errno::EMFILE);
        });
    }

    #[test]
    fn capabilities_do_not_come_back() {
        in_a_process("capabilities_do_not_come_back", || {
            let make_device = || mknod(&own_path(), SFlag::S_IFCHR, Mode::empty(), makedev(1, 3));
            if has_cap(None, CapSet::Effective, Capability::CAP_MKNOD).unwrap() {
                make_device().unwrap();
                fs::remove_file(own_path()).unwrap();
            }
            caps::clear(None, CapSet::Permitted).unwrap();
            assert_eq!(make_device(), Err(Errno::EPERM));
            for set in [CapSet::Permitted, CapSet::Effective] {
                assert!(caps::read(None, set).unwrap().is_empty());
                assert!(caps::raise(None, set, Capability::CAP_MKNOD).is_err());
            }
            // A program started by root has all capabilities, unless no_new_privs forbids it.
            let of_a_program = || {
                let status = Command::new("cat")
                    .arg("/proc/self/status")
                    .output()
                    .unwrap();
                let status = String::from_utf8(status.stdout).unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
                u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
            };
            limit();
            assert_eq!(of_a_program(), 0);
        });
    }

    #[test]
    fn the_limits_hold() {
        in_a_process("the_limits_hold", || {
            let much = || Vec::<u8>::new().try_reserve_exact(1 << 30);
            assert!(much().is_ok());
            limit();
            assert!(much().is_err());
            assert!(prctl::get_no_new_privs().unwrap());
            assert!(!prctl::get_dumpable().unwrap());
        });
    }
}
