//! What the host's QEMU and libvirt can do: asked once, and kept in `/var/cache/gfxplane`.
//!
//! QEMU is asked in two short runs: over QMP for its version, VNC and spice, and with `-display
//! help` for the rest. What it says depends on the modules that are installed, and a distribution
//! may have each frontend in a package of its own, so the answer is kept together with what tells
//! that the program or its modules have changed. libvirt is not asked at all: its library's file
//! name has the version.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::abilities::Abilities;
use crate::host::{Root, Warning, exists, read_text, run};
use crate::predict::versions::SPICE_GL_OVER_TCP;
use crate::record::FORMAT;
use crate::version::Version;

const CACHE: &str = "var/cache/gfxplane";

/// How long QEMU may take to answer everything. libvirt gives it 30 s for its own questions
/// (src/qemu/qemu_capabilities.c); measured: 0.2 s.
const DEADLINE: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes; real ones have some thousands.
const MAX_ANSWER: usize = 1024 * 1024;

/// The largest file that is searched for a text. A QEMU with its symbols has about 100 MiB.
const MAX_SEARCHED: u64 = 512 * 1024 * 1024;

/// Where spice listens unless qemu.conf says otherwise (libvirt src/qemu/qemu_conf.c,
/// `virQEMUDriverConfigNew`), and VNC.
const LISTEN: &str = "127.0.0.1";

/// What every ui/spice-core.c has in it.
const SPICE: &str = "failed to initialize spice server";

/// What ui/spice-core.c has in it if it was built with a spice-server older than 0.15.3.
const LOCAL_ONLY: &str = "SPICE GL support is local-only";

/// Whether QEMU may be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// Never: what is not in the cache is not known.
    Cached,
    /// If the cache says nothing of this program and its modules as they are now. The answer is
    /// kept for the next one, where that is allowed.
    Fresh,
}

/// What this QEMU and the host's libvirt can do. `emulator`: its path on the host, as a domain
/// names it.
///
/// Of a recorded host only the files are read: QEMU is never run, and the cache believed.
pub fn abilities(
    root: &Root,
    emulator: &Path,
    asking: Asking,
    warnings: &mut Vec<Warning>,
) -> Abilities {
    let listens = listens(root, warnings);
    Abilities {
        libvirt: libvirt(root, warnings),
        spice_listen: listens.0,
        vnc_listen: listens.1,
        ..of_qemu(root, emulator, asking, warnings)
    }
}

/// The emulators of which the cache says something, sorted by path.
#[must_use]
pub fn known(root: &Root, warnings: &mut Vec<Warning>) -> Vec<PathBuf> {
    let directory = root.join(CACHE).join("qemu");
    let names = super::read_names(&directory, warnings);
    let names = names.iter().filter(|name| name.ends_with(".json"));
    names
        .filter_map(|name| read(root, &directory.join(name), warnings))
        .map(|kept| kept.emulator)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// Writes what is known of an emulator, of libvirt and of qemu.conf into the directory of a
/// recorded host, for [`abilities`] to read there. Addresses of this machine's own do not go
/// along: what matters is that others can reach them.
///
/// # Errors
/// Any error of the file system.
pub fn record(root: &Root, emulator: &Path, abilities: &Abilities) -> io::Result<Vec<PathBuf>> {
    let Abilities {
        libvirt,
        spice_listen,
        vnc_listen,
        ..
    } = abilities;
    let mut written = Vec::new();
    let mut write = |path: PathBuf, text: String| {
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        fs::write(&path, text)?;
        written.push(path);
        io::Result::Ok(())
    };
    let kept = Kept {
        format: FORMAT,
        emulator: emulator.to_owned(),
        key: None,
        abilities: only_qemus(abilities),
    };
    if kept.abilities != Abilities::default() {
        write(kept_path(root, emulator), kept.to_text()?)?;
    }
    if let Some(version) = libvirt {
        let installed = Libvirt {
            format: FORMAT,
            version: version.clone(),
        };
        let text = serde_json::to_string_pretty(&installed)?;
        write(libvirt_path(root), text + "\n")?;
    }
    let settings: String = [("spice_listen", spice_listen), ("vnc_listen", vnc_listen)]
        .into_iter()
        .filter_map(|(key, address)| Some((key, masked(address.as_deref()?))))
        .map(|(key, address)| format!("{key} = \"{address}\"\n"))
        .collect();
    if !settings.is_empty() {
        write(root.join("etc/libvirt/qemu.conf"), settings)?;
    }
    Ok(written)
}

/// An address as it may be shown to others: those that every host has, as they are, another as one
/// of those that are for documentation (RFC 5737, RFC 3849).
fn masked(address: &str) -> &str {
    match address.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_loopback() || ip.is_unspecified() => address,
        Ok(std::net::IpAddr::V6(_)) => "2001:db8::1",
        Err(_) if address == "localhost" => address,
        _ => "192.0.2.1",
    }
}

/// What the cache keeps of one QEMU.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    format: u32,
    emulator: PathBuf,
    /// Missing on recorded hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Key>,
    abilities: Abilities,
}

/// What has changed if QEMU may answer otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    device: u64,
    inode: u64,
    size: u64,
    modified: String,
    /// The directories that may have QEMU's modules, by when something was put in or taken out:
    /// that leaves the program itself as it was.
    modules: BTreeMap<PathBuf, String>,
}

/// `libvirt.json` of a recorded host.
#[derive(Debug, Serialize, Deserialize)]
struct Libvirt {
    format: u32,
    version: Version,
}

impl Kept {
    fn to_text(&self) -> io::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

impl Key {
    /// Of the program as it is now.
    fn of(root: &Root, emulator: &Path) -> io::Result<Self> {
        let program = fs::metadata(on_host(root, emulator))?;
        let modified = |data: &Metadata| format!("{}.{:09}", data.mtime(), data.mtime_nsec());
        let modules = module_directories(root, emulator).into_iter();
        Ok(Key {
            device: program.dev(),
            inode: program.ino(),
            size: program.size(),
            modified: modified(&program),
            modules: modules
                .filter_map(|path| Some((modified(&fs::metadata(&path).ok()?), path)))
                .map(|(modified, path)| (path, modified))
                .collect(),
        })
    }
}

fn only_qemus(abilities: &Abilities) -> Abilities {
    Abilities {
        libvirt: None,
        spice_listen: None,
        vnc_listen: None,
        ..abilities.clone()
    }
}

fn of_qemu(root: &Root, emulator: &Path, asking: Asking, warnings: &mut Vec<Warning>) -> Abilities {
    let path = kept_path(root, emulator);
    let kept = read(root, &path, warnings).filter(|kept| {
        let same = kept.emulator == emulator;
        if !same {
            let other = kept.emulator.display();
            warnings.push(Warning::new(&path, format!("ignored: it is about {other}")));
        }
        same
    });
    if root.is_recorded() {
        return kept.map(|kept| kept.abilities).unwrap_or_default();
    }
    let program = on_host(root, emulator);
    let key = match Key::of(root, emulator) {
        _ if !emulator.is_absolute() => Err(io::Error::other("is no absolute path")),
        key => key,
    };
    let key = match key {
        Ok(key) => key,
        Err(error) => {
            if asking == Asking::Fresh {
                let problem = format!("{error}: what this QEMU can do is not known");
                warnings.push(Warning::new(program, problem));
            }
            return Abilities::default();
        }
    };
    if let Some(kept) = kept
        && kept.key.as_ref() == Some(&key)
    {
        return kept.abilities;
    }
    if asking == Asking::Cached {
        return Abilities::default();
    }
    match ask(root, emulator, Instant::now() + DEADLINE) {
        Ok(abilities) => {
            let kept = Kept {
                format: FORMAT,
                emulator: emulator.to_owned(),
                key: Some(key),
                abilities: abilities.clone(),
            };
            // Whoever may not write there asks again the next time.
            let _ = keep(&path, &kept);
            abilities
        }
        Err(problem) => {
            let problem = format!("{problem}: what this QEMU can do is not known");
            warnings.push(Warning::new(program, problem));
            Abilities::default()
        }
    }
}

/// A path that the host has, where we find it.
fn on_host(root: &Root, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Where the cache has what it knows of an emulator: its path with `,` for `/`, so that no two
/// have the same name.
fn kept_path(root: &Root, emulator: &Path) -> PathBuf {
    let mut name = String::new();
    for byte in emulator
        .strip_prefix("/")
        .unwrap_or(emulator)
        .as_os_str()
        .as_encoded_bytes()
    {
        match byte {
            b'/' => name.push(','),
            byte if byte.is_ascii_alphanumeric() || b"._-+".contains(byte) => {
                name.push(char::from(*byte));
            }
            byte => name.push_str(&format!("%{byte:02x}")),
        }
    }
    root.join(CACHE).join("qemu").join(name + ".json")
}

fn libvirt_path(root: &Root) -> PathBuf {
    root.join(CACHE).join("libvirt.json")
}

fn read(root: &Root, path: &Path, warnings: &mut Vec<Warning>) -> Option<Kept> {
    parsed(root, path).unwrap_or_else(|problem| {
        warnings.push(Warning::new(path, format!("ignored: {problem}")));
        None
    })
}

fn parsed<T: for<'a> Deserialize<'a>>(root: &Root, path: &Path) -> Result<Option<T>, String> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let own = Some(geteuid().as_raw());
    let Some(text) = run::read_trusted(root, path, own)? else {
        return Ok(None);
    };
    let damaged = |error: serde_json::Error| format!("it is damaged: {error}");
    let head: Head = serde_json::from_str(&text).map_err(damaged)?;
    if head.format != FORMAT {
        let format = head.format;
        return Err(format!(
            "its format is {format}, this version reads {FORMAT}"
        ));
    }
    serde_json::from_str(&text).map(Some).map_err(damaged)
}

fn keep(path: &Path, kept: &Kept) -> io::Result<()> {
    let text = kept.to_text()?;
    let directory = path.parent().unwrap_or(path);
    DirBuilder::new()
        .mode(0o755)
        .recursive(true)
        .create(directory)?;
    run::replace(directory, path, text.as_bytes())
}

/// Where this QEMU may have its modules: `lib/qemu` of the directory it was installed below, in
/// each of the names that distributions have for that (its own `--libdir` and `CONFIG_QEMU_MODDIR`
/// can't be asked).
fn module_directories(root: &Root, emulator: &Path) -> Vec<PathBuf> {
    let named = on_host(root, emulator);
    let real = named.canonicalize().ok();
    let mut found = BTreeSet::new();
    for program in [Some(named), real].into_iter().flatten() {
        let Some(prefix) = program.parent().and_then(Path::parent) else {
            continue;
        };
        let lib = prefix.join("lib");
        let multiarch = super::read_names(&lib, &mut Vec::new())
            .into_iter()
            .filter(|name| name.contains("-linux-"))
            .map(|name| lib.join(name));
        let multiarch: Vec<PathBuf> = multiarch.collect();
        for lib in [lib, prefix.join("lib64")].into_iter().chain(multiarch) {
            let directories = ["qemu", "qemu-kvm"].map(|name| lib.join(name));
            found.extend(directories.into_iter().filter(|path| path.is_dir()));
        }
    }
    found.into_iter().collect()
}

/// The questions over QMP. Listing the types of a class has QEMU load all modules that have types
/// (qom/qom-qmp-cmds.c, `qmp_qom_list_types`), which those of spice do; only then does it know the
/// options of spice.
const QUESTIONS: &str = r#"{"execute":"qmp_capabilities"}
{"execute":"qom-list-types","arguments":{"implements":"chardev"},"id":"types"}
{"execute":"query-command-line-options","arguments":{"option":"spice"},"id":"spice"}
{"execute":"query-command-line-options","arguments":{"option":"vnc"},"id":"vnc"}
{"execute":"quit"}
"#;

/// A QEMU that does nothing but answer. tcg comes first because it needs nothing of the host.
const ANSWERING: &[&str] = &[
    "-no-user-config",
    "-nodefaults",
    "-S",
    "-machine",
    "none",
    "-accel",
    "tcg",
    "-accel",
    "kvm",
    "-display",
    "none",
    "-qmp",
    "stdio",
];

fn ask(root: &Root, emulator: &Path, limit: Instant) -> Result<Abilities, String> {
    let program = on_host(root, emulator);
    let said = output(&program, ANSWERING, QUESTIONS, limit)?;
    let (version, mut frontends) = parse_qmp(&said).ok_or("did not answer over QMP")?;
    let said = output(&program, &["-display", "help"], "", limit)?;
    frontends.extend(parse_displays(&said).ok_or("did not answer -display help")?);
    let may = SPICE_GL_OVER_TCP.has(&version) != Some(false);
    let asked = may && frontends.contains("spice-gl");
    Ok(Abilities {
        qemu: Some(version),
        spice_gl_over_tcp: asked.then(|| spice_gl_over_tcp(root, emulator)).flatten(),
        frontends: Some(frontends),
        ..Abilities::default()
    })
}

/// What a program says to `input` on its stdout, if it ends by itself before `limit`.
fn output(
    program: &Path,
    arguments: &[&str],
    input: &str,
    limit: Instant,
) -> Result<String, String> {
    let child = Command::new(program)
        .args(arguments)
        // QEMU reads some (QEMU_MODULE_DIR, QEMU_AUDIO_DRV), and so do its libraries.
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Some distributions have a script in this place: what it starts goes with it.
        .process_group(0)
        .spawn();
    let mut child = child.map_err(|error| format!("can't be run: {error}"))?;
    // It fits into a pipe, so this does not wait. A program that does not read it has ended, or
    // says nothing.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let answer = listen(&mut child, limit);
    end(
        &mut child,
        if answer.is_ok() {
            limit
        } else {
            Instant::now()
        },
    );
    answer
}

fn listen(child: &mut Child, limit: Instant) -> Result<String, String> {
    let mut out = child.stdout.take().expect("stdout is piped");
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let left = limit.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("did not answer in time, and was killed".into());
        }
        // Rounded up: a poll of 0 ms before the deadline would spin.
        let timeout =
            PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(format!("can't be heard: {error}")),
        }
        match out.read(&mut buffer) {
            Ok(0) => return Ok(String::from_utf8_lossy(&said).into_owned()),
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) => return Err(format!("can't be heard: {error}")),
        }
        if said.len() > MAX_ANSWER {
            return Err("says more than anybody asked, and was killed".into());
        }
    }
}

/// Waits for a child that has said everything, and kills it if it does not end. One that can't be
/// killed now is left behind.
fn end(child: &mut Child, limit: Instant) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let mut limit = limit.max(Instant::now());
    let mut killed = false;
    while let Ok(None) = child.try_wait() {
        if Instant::now() >= limit {
            if killed {
                return;
            }
            let group = i32::try_from(child.id()).map(Pid::from_raw);
            let _ = group.map(|group| killpg(group, Signal::SIGKILL));
            killed = true;
            limit = Instant::now() + PATIENCE;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The version, and which of VNC and spice there are. `None` if a question was not answered.
///
/// QEMU docs/interop/qmp-spec.rst. An option group that is not there is an error
/// (util/qemu-config.c, `qmp_query_command_line_options`); spice has `gl` if it was built with
/// OpenGL (ui/spice-core.c, `qemu_spice_opts`), and no module of spice loads without ui-opengl then.
fn parse_qmp(said: &str) -> Option<(Version, BTreeSet<String>)> {
    let messages: Vec<Value> = said
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let greeting = messages
        .iter()
        .find_map(|message| message.pointer("/QMP/version/qemu"))?;
    let number = |name: &str| u32::try_from(greeting.get(name)?.as_u64()?).ok();
    let version = Version::of(&[number("major")?, number("minor")?, number("micro")?]);
    let answer = |id: &str| messages.iter().find(|message| message["id"] == id);
    // The inner `None`: there is no such option.
    let options = |name: &str| match answer(name)? {
        answer if answer.get("error").is_some() => Some(None),
        answer => Some(Some(answer["return"][0]["parameters"].as_array()?.clone())),
    };
    answer("types")?.get("return")?;
    let mut frontends = BTreeSet::new();
    if options("vnc")?.is_some() {
        frontends.insert("vnc".to_owned());
    }
    if let Some(parameters) = options("spice")? {
        frontends.insert("spice".to_owned());
        if parameters.iter().any(|parameter| parameter["name"] == "gl") {
            frontends.insert("spice-gl".to_owned());
        }
    }
    Some((version, frontends))
}

/// The list of `-display help` (ui/console.c, `qemu_display_help`): a head line, a name on each
/// line, and, with some versions, more text after an empty line.
fn parse_displays(said: &str) -> Option<BTreeSet<String>> {
    let is_name = |line: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !line.is_empty() && line.bytes().all(plain)
    };
    let mut lines = said.lines().map(str::trim_end);
    lines.find(|line| line.starts_with("Available display backend types"))?;
    let names: BTreeSet<String> = lines
        .take_while(|line| !line.is_empty())
        .filter(|line| is_name(line))
        .map(str::to_owned)
        .collect();
    (!names.is_empty()).then_some(names)
}

/// Whether spice takes OpenGL over TCP; `None` if that can't be told.
///
/// ui/spice-core.c refuses it only if it was built with an old spice-server, and only then has the
/// words for that. It is a module, or part of the program.
fn spice_gl_over_tcp(root: &Root, emulator: &Path) -> Option<bool> {
    let modules = module_directories(root, emulator)
        .into_iter()
        .map(|directory| directory.join("ui-spice-core.so"))
        .filter(|path| path.exists());
    let mut files: Vec<PathBuf> = modules.collect();
    if files.is_empty() {
        files.push(on_host(root, emulator));
    }
    let answers: Option<BTreeSet<bool>> = files
        .iter()
        .map(|file| match contains(file, [SPICE, LOCAL_ONLY]) {
            Ok([true, local_only]) => Some(!local_only),
            // It is none of spice's, such as a script that starts the program.
            _ => None,
        })
        .collect();
    match answers?.into_iter().collect::<Vec<_>>()[..] {
        [answer] => Some(answer),
        _ => None,
    }
}

/// Which of the texts a file has in it.
fn contains(path: &Path, texts: [&str; 2]) -> io::Result<[bool; 2]> {
    const STEP: usize = 256 * 1024;
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() || file.metadata()?.len() > MAX_SEARCHED {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let overlap = texts.iter().map(|text| text.len()).max().unwrap_or(1) - 1;
    let (mut piece, mut found) = (Vec::new(), [false; 2]);
    loop {
        let before = piece.len();
        if (&mut file).take(STEP as u64).read_to_end(&mut piece)? == 0 {
            return Ok(found);
        }
        for (text, found) in texts.iter().zip(&mut found) {
            let text = text.as_bytes();
            *found = *found || piece.windows(text.len()).any(|window| window == text);
        }
        debug_assert!(before <= overlap);
        // A text may begin in this piece and end in the next.
        piece.drain(..piece.len().saturating_sub(overlap));
    }
}

/// The version of the installed libvirt. `libvirt.so.0.11003.0` is 11.3.0 (libvirt meson.build,
/// `lib_version`); if several are installed, and they differ, none is it.
fn libvirt(root: &Root, warnings: &mut Vec<Warning>) -> Option<Version> {
    if root.is_recorded() {
        let path = libvirt_path(root);
        return parsed::<Libvirt>(root, &path)
            .unwrap_or_else(|problem| {
                warnings.push(Warning::new(&path, format!("ignored: {problem}")));
                None
            })
            .map(|libvirt| libvirt.version);
    }
    let lib = root.join("usr/lib");
    let multiarch = super::read_names(&lib, warnings)
        .into_iter()
        .filter(|name| name.contains("-linux-"))
        .map(|name| lib.join(name));
    let versions: BTreeSet<Version> = multiarch
        .chain([root.join("usr/lib64"), root.join("usr/lib")])
        .filter_map(|directory| directory.join("libvirt.so.0").canonicalize().ok())
        .filter_map(|library| version_of_library(library.file_name()?.to_str()?))
        .collect();
    let mut versions = versions.into_iter();
    versions.next().filter(|_| versions.next().is_none())
}

fn version_of_library(name: &str) -> Option<Version> {
    let (major_minor, micro) = name.strip_prefix("libvirt.so.0.")?.split_once('.')?;
    let (major_minor, micro): (u32, u32) = (major_minor.parse().ok()?, micro.parse().ok()?);
    Some(Version::from_libvirt(
        major_minor.checked_mul(1000)?.checked_add(micro)?,
    ))
}

/// Where spice and VNC listen by `qemu.conf`, or without one; nothing where it can't be read, as by
/// other users than root on Debian.
fn listens(root: &Root, warnings: &mut Vec<Warning>) -> (Option<String>, Option<String>) {
    let path = root.join("etc/libvirt/qemu.conf");
    let forbidden = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    if File::open(&path).is_err_and(forbidden) {
        return (None, None);
    }
    if !exists(&path) {
        return (Some(LISTEN.into()), Some(LISTEN.into()));
    }
    let Some(text) = read_text(&path, warnings) else {
        return (None, None);
    };
    let listen = |key| setting(&text, key).map_or(Some(LISTEN.into()), |value| value);
    (listen("spice_listen"), listen("vnc_listen"))
}

/// The value of `key = "value"`, as libvirt reads it (src/util/virconf.c): the first one counts,
/// and quotes may be single, double or three. `None` if it is not set, `Some(None)` if it is set to
/// something else.
fn setting(text: &str, key: &str) -> Option<Option<String>> {
    let blank = [' ', '\t'];
    let value = text.lines().find_map(|line| {
        let rest = line.trim_start_matches(blank).strip_prefix(key)?;
        rest.trim_start_matches(blank).strip_prefix('=')
    })?;
    let value = value.trim_start_matches(blank);
    let quoted = ["\"\"\"", "\"", "'"].iter().find_map(|quote| {
        let rest = value.strip_prefix(quote)?;
        Some(rest.split_once(quote)?.0.to_owned())
    });
    Some(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const QEMU: &str = "/usr/bin/qemu-system-x86_64";

    /// What QEMU 7.2.22 of Debian 12 says, with most options left out.
    const QMP: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18+b3"}, "capabilities": ["oob"]}}
{"return": {}}
{"return": [{"name": "chardev-spicevmc", "parent": "chardev-spice"}], "id": "types"}
{"return": [{"parameters": [{"name": "gl", "type": "boolean"}, {"name": "port", "type": "number"}], "option": "spice"}], "id": "spice"}
{"return": [{"parameters": [{"name": "vnc", "type": "string"}], "option": "vnc"}], "id": "vnc"}
{"timestamp": {"seconds": 1795350400, "microseconds": 306633}, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}
{"return": {}}
"#;

    /// The same without ui-opengl.so or ui-spice-core.so.
    const NO_SPICE: &str = r#"{"error": {"class": "GenericError", "desc": "invalid option name: spice"}, "id": "spice"}"#;

    const DISPLAYS: &str = "Available display backend types:\nnone\negl-headless\ncurses\ndbus\n";

    /// What is known where nothing is installed.
    fn nothing() -> Abilities {
        Abilities {
            spice_listen: Some(LISTEN.into()),
            vnc_listen: Some(LISTEN.into()),
            ..Abilities::default()
        }
    }

    /// A host with a QEMU that is a script, and notes each of its runs.
    struct Host {
        directory: tempfile::TempDir,
    }

    impl Host {
        fn new(qmp: &str, displays: &str) -> Self {
            let host = Host {
                directory: tempfile::tempdir().unwrap(),
            };
            fs::create_dir_all(host.root().join("usr/lib/x86_64-linux-gnu/qemu")).unwrap();
            let runs = host.root().join("runs");
            host.program(&format!(
                "echo run >> '{}'\ncase \"$*\" in\n\
                 *qmp*) cat <<'END'\n{qmp}END\n;;\n\
                 '-display help') cat <<'END'\n{displays}END\n;;\nesac\n",
                runs.display()
            ));
            host
        }

        fn root(&self) -> Root {
            Root::strict(self.directory.path())
        }

        /// Written by another process: while this one forks for another test, nothing can be
        /// executed that it has open (ETXTBSY).
        fn program(&self, script: &str) {
            let path = on_host(&self.root(), Path::new(QEMU));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut shell = Command::new("sh")
                .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
                .arg(path)
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let script = format!("#!/bin/sh\n{script}");
            let mut stdin = shell.stdin.take().unwrap();
            stdin.write_all(script.as_bytes()).unwrap();
            drop(stdin);
            assert!(shell.wait().unwrap().success());
        }

        fn runs(&self) -> usize {
            let text = fs::read_to_string(self.root().join("runs"));
            text.map_or(0, |text| text.lines().count())
        }

        fn ask(&self, asking: Asking) -> (Abilities, Vec<Warning>) {
            let mut warnings = Vec::new();
            let abilities = abilities(&self.root(), Path::new(QEMU), asking, &mut warnings);
            (abilities, warnings)
        }

        fn kept(&self) -> PathBuf {
            kept_path(&self.root(), Path::new(QEMU))
        }
    }

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_qemu_says_over_qmp() {
        let answer = |spice: &str| {
            let lines = QMP
                .lines()
                .map(|line| match line.contains("\"id\": \"spice\"") {
                    true => spice,
                    false => line,
                });
            parse_qmp(&lines.collect::<Vec<_>>().join("\n"))
        };
        let (version, frontends) = parse_qmp(QMP).unwrap();
        assert_eq!(version, Version::of(&[7, 2, 22]));
        assert_eq!(frontends, set(&["spice", "spice-gl", "vnc"]));
        assert_eq!(answer(NO_SPICE).unwrap().1, set(&["vnc"]));
        let no_gl = r#"{"return": [{"parameters": [{"name": "port"}]}], "id": "spice"}"#;
        assert_eq!(answer(no_gl).unwrap().1, set(&["spice", "vnc"]));
        for not_answered in [
            "",
            "{",
            r#"{"id": "spice"}"#,
            r#"{"return": 3, "id": "spice"}"#,
        ] {
            assert_eq!(answer(not_answered), None, "{not_answered}");
        }
        assert_eq!(parse_qmp(""), None);
        assert_eq!(
            parse_qmp(&QMP.replace("\"major\": 7", "\"major\": -7")),
            None
        );
        assert_eq!(
            parse_qmp(&QMP.replace("\"major\": 7", "\"major\": 1e300")),
            None
        );
        assert_eq!(parse_qmp(&QMP.replace("chardev-spicevmc\"", "")), None);
    }

    #[test]
    fn what_qemu_lists_as_displays() {
        let more = "\nSome display backends support suboptions, which can be set with\n   x\n";
        for (text, expected) in [
            (
                DISPLAYS,
                Some(&["none", "egl-headless", "curses", "dbus"][..]),
            ),
            (
                &format!("{DISPLAYS}{more}"),
                Some(&["none", "egl-headless", "curses", "dbus"]),
            ),
            (
                "qemu: module ui-ui-gtk not found\nAvailable display backend types:\nsdl\r\n",
                Some(&["sdl"]),
            ),
            ("Available display backend types:\n", None),
            ("Available display backend types:\nSDL !\n", None),
            ("sdl\n", None),
            ("", None),
        ] {
            assert_eq!(parse_displays(text), expected.map(set), "{text:?}");
        }
    }

    #[test]
    fn it_is_asked_once() {
        let host = Host::new(QMP, DISPLAYS);
        assert_eq!(host.ask(Asking::Cached), (nothing(), Vec::new()));
        assert_eq!(host.runs(), 0);
        let expected = Abilities {
            qemu: Some(Version::of(&[7, 2, 22])),
            frontends: Some(set(&[
                "none",
                "egl-headless",
                "curses",
                "dbus",
                "spice",
                "spice-gl",
                "vnc",
            ])),
            ..nothing()
        };
        assert_eq!(host.ask(Asking::Fresh), (expected.clone(), Vec::new()));
        assert_eq!(host.runs(), 2);
        for asking in [Asking::Fresh, Asking::Cached] {
            assert_eq!(host.ask(asking), (expected.clone(), Vec::new()));
        }
        assert_eq!(host.runs(), 2, "the cache answers");
        assert_eq!(known(&host.root(), &mut Vec::new()), [PathBuf::from(QEMU)]);
    }

    #[test]
    fn what_has_changed_is_asked_again() {
        let host = Host::new(QMP, DISPLAYS);
        let modules = host.root().join("usr/lib/x86_64-linux-gnu/qemu");
        host.ask(Asking::Fresh);
        fs::write(modules.join("ui-gtk.so"), "").unwrap();
        assert_eq!(host.ask(Asking::Cached).0, nothing());
        host.ask(Asking::Fresh);
        assert_eq!(host.runs(), 4, "a module was installed");
        fs::create_dir_all(host.root().join("usr/lib64/qemu-kvm")).unwrap();
        host.ask(Asking::Fresh);
        assert_eq!(host.runs(), 6, "the first of its modules were installed");
        host.program("exit 1");
        let (abilities, warnings) = host.ask(Asking::Fresh);
        assert_eq!(abilities, nothing());
        assert!(warnings[0].to_string().contains("did not answer over QMP"));
    }

    #[test]
    fn a_qemu_that_talks_nonsense_or_is_not_there() {
        let host = Host::new("QEMU 7\n{\"QMP\":\n", "sdl\n");
        for expected in [
            "did not answer over QMP",
            "did not answer -display help",
            "No such file",
        ] {
            let (abilities, warnings) = host.ask(Asking::Fresh);
            assert_eq!((abilities, warnings.len()), (nothing(), 1));
            let warning = warnings[0].to_string();
            assert!(
                warning.contains(expected) && warning.contains(QEMU),
                "{warning}"
            );
            assert!(!host.kept().exists(), "half an answer is not kept");
            assert!(host.ask(Asking::Cached).1.is_empty());
            if expected.contains("QMP") {
                host.program(&format!(
                    "case \"$*\" in *qmp*) cat <<'END'\n{QMP}END\nesac"
                ));
            } else if !expected.contains("No") {
                fs::remove_file(on_host(&host.root(), Path::new(QEMU))).unwrap();
            }
        }
        let mut warnings = Vec::new();
        let relative = Path::new("qemu-system-x86_64");
        abilities(&host.root(), relative, Asking::Fresh, &mut warnings);
        assert!(
            warnings[0].problem.contains("no absolute path"),
            "{}",
            warnings[0]
        );
    }

    #[test]
    fn a_qemu_that_hangs_or_never_stops_talking_is_killed() {
        let host = Host::new("", "");
        let pid = host.root().join("pid");
        let soon = || Instant::now() + Duration::from_millis(500);
        // The shell's child holds the pipe.
        host.program(&format!(
            "sleep 1000 &\necho $! > '{}'\nwait",
            pid.display()
        ));
        let error = ask(&host.root(), Path::new(QEMU), soon()).unwrap_err();
        assert!(error.contains("did not answer in time"), "{error}");
        let pid: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let limit = Instant::now() + Duration::from_secs(10);
        let lives = || {
            // A zombie that nobody has waited for yet is as good as gone.
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
        };
        while lives() {
            assert!(Instant::now() < limit, "what it started is killed, too");
            thread::sleep(Duration::from_millis(5));
        }
        host.program("exec sleep 1000 > /dev/null");
        let began = Instant::now();
        assert!(ask(&host.root(), Path::new(QEMU), soon()).is_err());
        assert!(began.elapsed() < Duration::from_secs(60));
        host.program("yes");
        let long = Instant::now() + Duration::from_secs(60);
        let error = ask(&host.root(), Path::new(QEMU), long).unwrap_err();
        assert!(error.contains("more than anybody asked"), "{error}");
    }

    #[test]
    fn a_cache_that_cannot_be_believed_is_named_and_replaced() {
        let host = Host::new(QMP, DISPLAYS);
        host.ask(Asking::Fresh);
        let good = fs::read_to_string(host.kept()).unwrap();
        let of_other = good.replace("x86_64", "aarch64");
        let large = " ".repeat(65537);
        for (text, expected) in [
            ("{", "damaged"),
            ("[]", "damaged"),
            ("", "damaged"),
            ("{\"format\": 1}", "missing field"),
            ("{\"format\": 2}", "its format is 2"),
            (&of_other, "it is about /usr/bin/qemu-system-aarch64"),
            (&large, "larger than 64 KiB"),
        ] {
            fs::write(host.kept(), text).unwrap();
            let (abilities, warnings) = host.ask(Asking::Cached);
            assert_eq!((abilities, warnings.len()), (nothing(), 1), "{expected}");
            let warning = warnings[0].to_string();
            assert!(
                warning.contains(expected) && warning.contains(",qemu-system"),
                "{warning}"
            );
            assert_ne!(host.ask(Asking::Fresh).0, nothing());
            assert_eq!(fs::read_to_string(host.kept()).unwrap(), good, "{expected}");
        }
        fs::set_permissions(host.kept(), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(
            host.ask(Asking::Cached).1[0]
                .problem
                .contains("written by others")
        );
        fs::rename(host.kept(), host.root().join("else")).unwrap();
        symlink(host.root().join("else"), host.kept()).unwrap();
        assert!(host.ask(Asking::Cached).1[0].problem.contains("is a link"));
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_done_without() {
        let host = Host::new(QMP, DISPLAYS);
        fs::create_dir(host.root().join("var")).unwrap();
        fs::write(host.root().join("var/cache"), "").unwrap();
        for _ in 0..2 {
            let (abilities, warnings) = host.ask(Asking::Fresh);
            assert_eq!((abilities.has("vnc"), warnings), (Some(true), Vec::new()));
        }
        assert_eq!(host.runs(), 4);
    }

    #[test]
    fn no_two_emulators_have_one_file() {
        let root = Root::recorded("/r");
        let name = |path: &str| {
            let path = kept_path(&root, Path::new(path));
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(name(QEMU), "usr,bin,qemu-system-x86_64.json");
        let paths = ["/a/b", "/a,b", "/a%2cb", "/a%252cb", "/a\u{e4}b", "/a b"];
        let names: BTreeSet<String> = paths.iter().map(|path| name(path)).collect();
        assert_eq!(names.len(), paths.len(), "{names:?}");
    }

    #[test]
    fn spice_says_whether_it_takes_opengl_over_tcp() {
        let newer = QMP.replace("\"minor\": 2, \"major\": 7", "\"minor\": 1, \"major\": 11");
        let host = Host::new(&newer, DISPLAYS);
        let module = |name: &str, text: &str| {
            let directory = host.root().join(name);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("ui-spice-core.so"), text).unwrap();
        };
        let answer = || {
            let _ = fs::remove_file(host.kept());
            host.ask(Asking::Fresh).0.spice_gl_over_tcp
        };
        assert_eq!(answer(), None, "a script says nothing of spice");
        let lib = "usr/lib/x86_64-linux-gnu/qemu";
        module(lib, &format!("\0{SPICE}\0"));
        assert_eq!(answer(), Some(true));
        module(lib, &format!("\0{SPICE}\0{LOCAL_ONLY} for now\0"));
        assert_eq!(answer(), Some(false));
        module("usr/lib64/qemu", SPICE);
        assert_eq!(answer(), None, "two that disagree");
        let older = Host::new(QMP, DISPLAYS);
        fs::write(older.root().join(lib).join("ui-spice-core.so"), SPICE).unwrap();
        assert_eq!(older.ask(Asking::Fresh).0.spice_gl_over_tcp, None);
    }

    #[test]
    fn a_text_is_found_wherever_it_lies() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let step = 256 * 1024;
        for at in [
            0,
            1,
            step - LOCAL_ONLY.len(),
            step - 5,
            step - 1,
            step,
            2 * step - 3,
        ] {
            let mut bytes = vec![b'S'; at];
            bytes.extend_from_slice(LOCAL_ONLY.as_bytes());
            fs::write(file.path(), &bytes).unwrap();
            let found = contains(file.path(), [LOCAL_ONLY, SPICE]).unwrap();
            assert_eq!(found, [true, false], "at {at}");
            fs::write(file.path(), &bytes[..bytes.len() - 1]).unwrap();
            assert_eq!(
                contains(file.path(), [LOCAL_ONLY, SPICE]).unwrap(),
                [false; 2]
            );
        }
        assert!(contains(Path::new("/dev/null"), [SPICE, SPICE]).is_err());
    }

    #[test]
    fn the_version_of_libvirt() {
        for (name, expected) in [
            ("libvirt.so.0.11003.0", Some(&[11, 3, 0][..])),
            ("libvirt.so.0.9000.0", Some(&[9, 0, 0])),
            ("libvirt.so.0.7000.1", Some(&[7, 0, 1])),
            ("libvirt.so.0", None),
            ("libvirt.so.0.x.0", None),
            ("libvirt.so.0.4294967295.0", None),
            ("libvirt-qemu.so.0.11003.0", None),
        ] {
            assert_eq!(
                version_of_library(name),
                expected.map(Version::of),
                "{name}"
            );
        }
        let host = Host::new("", "");
        let library = |directory: &str, version: &str| {
            let directory = host.root().join(directory);
            fs::create_dir_all(&directory).unwrap();
            let _ = fs::remove_file(directory.join("libvirt.so.0"));
            fs::write(directory.join(version), "").unwrap();
            symlink(version, directory.join("libvirt.so.0")).unwrap();
        };
        let version = || libvirt(&host.root(), &mut Vec::new());
        assert_eq!(version(), None);
        library("usr/lib/x86_64-linux-gnu", "libvirt.so.0.11003.0");
        library("usr/lib64", "libvirt.so.0.11003.0");
        assert_eq!(version(), Some(Version::of(&[11, 3, 0])));
        library("usr/lib64", "libvirt.so.0.9000.0");
        assert_eq!(version(), None);
    }

    #[test]
    fn settings_of_qemu_conf() {
        for (text, expected) in [
            ("spice_listen = \"0.0.0.0\"", Some(Some("0.0.0.0"))),
            (
                "\n \tspice_listen='::'# all\nspice_listen = \"x\"",
                Some(Some("::")),
            ),
            ("spice_listen = \"\"\"a\"\"\"", Some(Some("a"))),
            ("#spice_listen = \"0.0.0.0\"\n# spice_listen = \"x\"", None),
            ("spice_listen_x = \"0.0.0.0\"", None),
            ("vnc_listen = \"spice_listen = 'x'\"", None),
            ("spice_listen = 3", Some(None)),
            ("spice_listen = \"open", Some(None)),
            ("spice_listen = \"\"", Some(Some(""))),
            ("", None),
        ] {
            let expected = expected.map(|value| value.map(str::to_owned));
            assert_eq!(setting(text, "spice_listen"), expected, "{text:?}");
        }
        let host = Host::new("", "");
        let read = || listens(&host.root(), &mut Vec::new());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(), (some(LISTEN), some(LISTEN)));
        fs::create_dir_all(host.root().join("etc/libvirt")).unwrap();
        let path = host.root().join("etc/libvirt/qemu.conf");
        fs::write(&path, "vnc_listen = \"0.0.0.0\"\n").unwrap();
        assert_eq!(read(), (some(LISTEN), some("0.0.0.0")));
        fs::write(&path, "vnc_listen = [").unwrap();
        assert_eq!(read(), (some(LISTEN), None));
    }

    #[test]
    fn what_is_recorded_is_read_and_nothing_run() {
        let host = Host::new(QMP, DISPLAYS);
        let copy = Root::recorded(host.root().join("copy"));
        let all = Abilities {
            libvirt: Some(Version::of(&[11, 3, 0])),
            spice_gl_over_tcp: Some(true),
            spice_listen: Some("0.0.0.0".into()),
            vnc_listen: Some("10.1.2.3".into()),
            ..host.ask(Asking::Fresh).0
        };
        fs::create_dir(copy.path()).unwrap();
        assert_eq!(record(&copy, Path::new(QEMU), &all).unwrap().len(), 3);
        let expected = Abilities {
            vnc_listen: Some("192.0.2.1".into()),
            ..all
        };
        let runs = host.runs();
        let mut warnings = Vec::new();
        for asking in [Asking::Cached, Asking::Fresh] {
            let found = abilities(&copy, Path::new(QEMU), asking, &mut warnings);
            assert_eq!((&found, host.runs()), (&expected, runs));
        }
        let other = abilities(
            &copy,
            Path::new("/usr/bin/other"),
            Asking::Fresh,
            &mut warnings,
        );
        assert_eq!(other.libvirt, expected.libvirt);
        assert_eq!((other.qemu, warnings), (None, Vec::new()));
        for (address, shown) in [
            ("::", "::"),
            ("::1", "::1"),
            ("127.0.0.2", "127.0.0.2"),
            ("localhost", "localhost"),
            ("fe80::1:2", "2001:db8::1"),
            ("host.example.org", "192.0.2.1"),
        ] {
            assert_eq!(masked(address), shown);
        }
    }
}
