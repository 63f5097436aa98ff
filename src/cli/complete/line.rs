//! Reads a command line as bash does, and quotes words for it.

/// The last word of a command line, up to the cursor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Typed {
    /// The quotation mark that is still open.
    open: Option<char>,
    /// The beginning of the word that bash does not replace, without quotation marks.
    head: String,
    /// True if the word begins with a tilde that the shell replaces.
    pub(super) is_home: bool,
}

/// Splits a command line into words. The last one, which may be empty, is at the cursor. Leaves out
/// assignments before the program's name. `breaks`: the characters at which bash's line editor
/// begins a new word (`COMP_WORDBREAKS`).
#[must_use]
pub(super) fn split(line: &str, breaks: &str) -> (Vec<String>, Typed) {
    let mut words = Vec::new();
    let (mut word, mut typed) = (String::new(), Typed::default());
    let mut is_word = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (typed.open, character) {
            (None, blank) if blank.is_ascii_whitespace() => {
                if is_word {
                    words.push(std::mem::take(&mut word));
                }
                (is_word, typed) = (false, Typed::default());
                continue;
            }
            (None, '\\') => word.extend(characters.next()),
            (None, quote @ ('"' | '\'')) => {
                typed.open = Some(quote);
                typed.head.clone_from(&word);
            }
            (Some(quote), mark) if quote == mark => {
                typed.open = None;
                if breaks.contains(mark) {
                    typed.head.clone_from(&word);
                }
            }
            (Some('"'), '\\') => {
                let is_escaped = |next: &char| "\"\\$`".contains(*next);
                word.push(characters.next_if(is_escaped).unwrap_or('\\'));
            }
            (open, other) => {
                typed.is_home |= !is_word && other == '~';
                word.push(other);
                if open.is_none() && breaks.contains(other) {
                    typed.head.clone_from(&word);
                }
            }
        }
        is_word = true;
    }
    words.push(word);
    // Assignments before the program's name are not words of the command.
    let is_assignment = |word: &&String| {
        let name = word.split_once('=').map_or("", |(name, _)| name);
        !name.is_empty() && !name.starts_with('-')
    };
    let last = words.len() - 1;
    let assignments = words[..last].iter().take_while(is_assignment).count();
    words.drain(..assignments);
    (words, typed)
}

impl Typed {
    /// Returns the text by which bash must replace what follows `head`, so that the result is
    /// `word`; `None` if `word` does not begin with `head`.
    #[must_use]
    pub(super) fn rest(&self, word: &str) -> Option<String> {
        let rest = word.strip_prefix(&self.head)?;
        let escaped = |text: &str, special: &dyn Fn(char) -> bool| -> String {
            let escape = |c: char| special(c).then_some('\\').into_iter().chain([c]);
            text.chars().flat_map(escape).collect()
        };
        let is_special =
            |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && !"_.@%+=:,/-".contains(c);
        Some(match self.open {
            Some('\'') => rest.replace('\'', r"'\''"),
            Some(_) => escaped(rest, &|c| "\"\\$`".contains(c)),
            None => match rest.strip_prefix("~/").filter(|_| self.head.is_empty()) {
                Some(rest) if self.is_home => format!("~/{}", escaped(rest, &is_special)),
                _ => escaped(rest, &is_special),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// bash's own value.
    const BREAKS: &str = " \t\n\"'@><=;|&(:";

    #[test]
    fn words_as_bash_reads_them() {
        // The line, the words in it, the candidate, and the text that replaces the typed part.
        for row in [
            "gfxplane ch¦gfxplane,ch¦check¦check",
            r"gfxplane check ¦gfxplane,check,¦my guest¦my\ guest",
            r"gfxplane check my\ g¦gfxplane,check,my g¦my guest¦my\ guest",
            "gfxplane check 'my g¦gfxplane,check,my g¦my guest¦my guest",
            r"gfxplane check 'my'\ g¦gfxplane,check,my g¦my guest¦\ guest",
            r#"x "a\$b\c¦x,a$b\c¦a$b\cd`¦a\$b\\cd\`"#,
            r"x 'it¦x,it¦it's¦it'\''s",
            "x --domain='my g¦x,--domain=my g¦--domain=my guest¦my guest",
            "x --consent=remote,v¦x,--consent=remote,v¦--consent=remote,video¦remote,video",
            "x 0000:01¦x,0000:01¦0000:01:00.0¦01:00.0",
            r"x ~/a¦x,~/a¦~/a b~¦~/a\ b\~",
            "x '~/a¦x,~/a¦~/ab¦~/ab",
            r"x \~a¦x,~a¦~ab¦\~ab",
            "A=1 B='c d' x y¦x,y¦yz¦yz",
            "x ''¦x,¦a¦a",
            r"x Gä¦x,Gä¦Gäste 日¦Gäste\ 日",
        ] {
            let [line, words, candidate, rest] = row.split('¦').collect::<Vec<_>>()[..] else {
                panic!("{row}");
            };
            let (found, typed) = split(line, BREAKS);
            assert_eq!(found.join(","), words, "{line}");
            assert_eq!(typed.rest(candidate).as_deref(), Some(rest), "{line}");
        }
        let (_, typed) = split("x a=b", BREAKS);
        assert_eq!(typed.rest("c=b"), None);
    }

    #[test]
    fn nothing_is_lost_without_a_word() {
        for line in ["", " ", "\\", "'", "a=1"] {
            let (words, _) = split(line, BREAKS);
            assert_eq!(words.len(), 1, "{line:?}");
        }
    }
}
