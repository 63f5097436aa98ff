//! What libvirt and QEMU said: the log of a domain, and the messages of refusals.
//!
//! Input: a first byte that says what the rest is: `l` the whole log, `w` words of a command line, parted by NULs, in
//! a log that is else a good one, `m` a message.

use gfxplane::device::facts::Display;
use gfxplane::device::id::DeviceId;
use gfxplane::explain::learn::{Lesson, Nothing, began, learn};
use gfxplane::plan::trial::said;
use uuid::Uuid;

use super::same;

const DOMAIN: Uuid = Uuid::from_u128(0x0d0c_2f26_4b1a_4c6e_9d52_6f5a_1f7b_6a01);
const OTHER: &str = "c1a20000-0000-4000-8000-0000000000ff";
const REFUSAL: &str = "vfio-display-dmabuf: opengl not available";

fn devices() -> [DeviceId; 2] {
    let mdev = "c1a20000-0000-4000-8000-000000000002";
    [mdev, "0000:41:00.4"].map(|name| name.parse().expect("it is one"))
}

/// # Errors
/// What is broken.
pub(crate) fn check(input: &[u8]) -> Result<(), String> {
    let Some((kind, rest)) = input.split_first() else {
        return Ok(());
    };
    let text = String::from_utf8_lossy(rest);
    match kind {
        b'l' => whole(&text),
        b'w' => written(&text),
        b'm' => message(&text),
        _ => Ok(()),
    }
}

fn read(log: &str, is_running: bool) -> Result<Lesson, Nothing> {
    learn(log, DOMAIN, &devices(), is_running)
}

/// Nothing is learned of other devices, and what a guest can add changes nothing.
fn whole(log: &str) -> Result<(), String> {
    for is_running in [true, false] {
        let lesson = read(log, is_running);
        let before = "2026-01-01 00:00:00.000+0000: shutting down, reason=failed\nnoise '\n";
        let longer = format!("{before}{log}");
        same("with more before it", &read(&longer, is_running), &lesson)?;
        let Ok(lesson) = lesson else { continue };
        if is_running && !lesson.started {
            return Err("a domain that runs has started".into());
        }
        same("when it began", &began(log), &Some(lesson.began))?;
        for (id, display) in &lesson.displays {
            let is_one = matches!(display, Display::Known(ways) if ways.len() <= 1);
            if !devices().contains(id) || !is_one {
                return Err(format!("{id} is learned to be {display:?}"));
            }
        }
        if !lesson.emulator.is_absolute() {
            return Err(format!("{:?} is no program", lesson.emulator));
        }
        if lesson.started {
            // A guest writes: the words of a refusal, an end that none was.
            let [first, second] = devices();
            let forged = format!(
                "{log}\nqemu: -device vfio-pci: vfio {first}: {REFUSAL}\nqemu: -device x: vfio {second}: {REFUSAL}\n2099-01-01 00:00:00.000+0000: shutting down, reason=failed\n"
            );
            same("what a guest adds", &read(&forged, is_running), &Ok(lesson))?;
        }
    }
    Ok(())
}

/// The words that libvirt ran are those that are read, whatever is in them.
fn written(text: &str) -> Result<(), String> {
    // What looks like the beginning of a start, at the beginning of a line, is taken for one: nothing is learned then.
    if text.contains("starting up libvirt version: ") {
        return Ok(());
    }
    // An option of its own would tell something else.
    let noise: Vec<String> = text
        .split('\0')
        .take(32)
        .map(|word| format!("x{word}"))
        .collect();
    let [device, _] = devices();
    let devices = [
        format!(
            "{{\"driver\":\"vfio-pci\",\"sysfsdev\":\"/sys/bus/mdev/devices/{device}\",\"display\":\"on\"}}"
        ),
        format!("vfio-pci,sysfsdev=/sys/bus/mdev/devices/{OTHER},display=on"),
    ];
    let mut words: Vec<String> = vec!["LC_ALL=C".into()];
    words.extend(noise.first().cloned());
    let emulator = format!("/usr/bin/{}", noise.last().map_or("qemu", String::as_str));
    words.extend([emulator.clone(), "-uuid".into(), DOMAIN.to_string()]);
    words.extend(noise.iter().cloned());
    words.extend(["-vnc".into(), "127.0.0.1:0".into()]);
    for device in devices {
        words.extend(["-device".into(), device]);
        words.extend(noise.iter().cloned());
    }
    let quoted: Vec<String> = words.iter().map(|word| escape_shell(word)).collect();
    for (place, by) in [" ", " \\\n"].into_iter().enumerate() {
        let log = format!(
            "2026-11-22 18:34:30.12{place}+0000: starting up libvirt version: 11.3.0, package: x, qemu version: 10.0.13Debian, kernel: 6.12\n{}\n",
            quoted.join(by)
        );
        let lesson = read(&log, true).map_err(|nothing| format!("{nothing}: {log}"))?;
        same(
            "the emulator",
            &lesson.emulator.to_str(),
            &Some(emulator.as_str()),
        )?;
        let region = Display::from_answers(false, true);
        same("the displays", &lesson.displays, &vec![(device, region)])?;
        let refused = format!(
            "{log}{}: -device {{}}: vfio {device}: {REFUSAL}\n2026-11-22 18:34:31.000+0000: shutting down, reason=failed\n",
            "qemu-system-x86_64"
        );
        let lesson = read(&refused, false).map_err(|nothing| format!("{nothing}: {refused}"))?;
        let dmabuf = Display::from_answers(true, false);
        same(
            "of a refusal",
            &(lesson.started, lesson.displays),
            &(false, vec![(device, dmabuf)]),
        )?;
    }
    Ok(())
}

/// As libvirt writes a word for a shell (src/util/virbuffer.c, `virBufferEscapeShell`).
fn escape_shell(word: &str) -> String {
    let special = "\r\t\n !\"#$&'()*;<>?[\\]^`{|}~";
    if word.is_empty() || word.contains(|c| special.contains(c)) {
        format!("'{}'", word.replace('\'', "'\\''"))
    } else {
        word.to_owned()
    }
}

/// Only QEMU's two sentences tell of a display, and what is passed on is in what was printed.
fn message(text: &str) -> Result<(), String> {
    let none = "device doesn't support any (known) display method";
    let expected = if text.contains(REFUSAL) {
        Some(Display::from_answers(true, false))
    } else if text.contains(none) {
        Some(Display::NONE)
    } else {
        None
    };
    let display = said::display(Some(text));
    let known = display.is_known().then(|| display.clone());
    same("what it tells", &known, &expected)?;
    let words = said::words_of(text);
    let mut printed = text.lines();
    for line in words.lines() {
        // In their order, each the end of a line or all of it.
        if !printed.any(|whole| whole.trim_end().ends_with(line)) {
            return Err(format!("{line:?} was not printed"));
        }
    }
    same("nothing", &words.is_empty(), &text.trim().is_empty())?;
    // A warning beside a refusal takes nothing from it.
    let warned = format!("warning: cpu\n{text}");
    let has_grave = words
        .lines()
        .any(|line| !line.starts_with("warning: ") && !line.starts_with("VNC server running"));
    if has_grave {
        same("beside a warning", &said::words_of(&warned), &words)?;
    }
    Ok(())
}
