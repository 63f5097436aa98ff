use super::*;

#[test]
fn taken() {
    for text in [
        "<a/>",
        "\u{feff}\n<!----><?p?><a></a\t>\r\n<!-- - -->",
        "<?xml version='1.0'?><a/>",
        "<?xml\tversion = \"1.1\"\nencoding='utf-8' standalone=\"no\" ?><a/>",
        "<?xml version='1.0' standalone='yes'?><a/>",
        "<?xml version='1.0' encoding='US-ASCII'?><a/>",
        "<a b='>\"]]>'>]] > ></a>",
        "<a>&lt;&gt;&amp;&apos;&quot;&#9;&#x10FFFF;&#0065;</a>",
        "<a><![CDATA[<&]]]]><![CDATA[>]]></a>",
        "<é·-.1 _='' :='' x:y=''/>",
        "<p:a q:b=''/>",
        "<a>\u{feff}<!--->--></a>",
        "<a xmlns:p=''/>",
    ] {
        assert!(read(text).is_ok(), "{text}: {:?}", read(text).err());
    }
}

#[test]
fn refused() {
    for (text, place, expected) in [
        ("<?xml?><a/>", (1, 6), "expected version='1.0'"),
        (
            "<?xml version='1.0'?><?xml version='1.0'?><a/>",
            (1, 22),
            "expected it as the first",
        ),
        ("<?xml version='2.0'?><a/>", (1, 16), "version='1.0'"),
        (
            "<?xml version='1.0'encoding='UTF-8'?><a/>",
            (1, 20),
            "expected white space",
        ),
        (
            "<?xml version='1.0' encoding='UTF-8'standalone='no'?><a/>",
            (1, 37),
            "expected white space",
        ),
        (
            "<?xml version='1.0' standalone='x'?><a/>",
            (1, 33),
            "expected yes or no",
        ),
        ("<?xml version='1.0' x='1'?><a/>", (1, 21), "expected ?>"),
        (
            "<?xml version='1.0' encoding='`rm`'?><a/>",
            (1, 31),
            "no encoding",
        ),
        ("<a/>\n x", (2, 2), "expected the end of the document"),
        ("<a/><![CDATA[]]>", (1, 5), "text beside the root element"),
        ("</a>", (1, 1), "an end tag without a start tag"),
        (
            "\u{feff}\u{feff}<a/>",
            (1, 2),
            "text beside the root element",
        ),
        ("\u{feff}<a>\n&</a>", (2, 1), "expected &amp;"),
        ("<a b='1'c>", (1, 9), "expected white space"),
        ("<a b='1'/", (1, 9), "the end of the tag"),
        ("<a \"='1'/>", (1, 4), "the name of an attribute"),
        ("<a b='></a>", (1, 6), "expected ' before"),
        ("<!-x --><a/>", (1, 1), "expected <!--"),
        ("<a>&b c;</a>", (1, 4), "expected &amp;"),
        ("<a><!-- a-b -- --></a>", (1, 13), "-- inside a comment"),
        ("<a></ab>", (1, 4), "expected </a>"),
        ("<ab></a>", (1, 5), "expected </ab>"),
        ("<a></a b=''>", (1, 8), "expected > of an end tag"),
        (
            "<a></a",
            (1, 7),
            "the document ends: expected > of an end tag",
        ),
        (
            "<a",
            (1, 3),
            "the document ends: expected the end of the tag",
        ),
        ("<a ", (1, 4), "expected the end of the tag"),
        ("< a/>", (1, 2), "expected the name of an element"),
        (
            "<a+/>",
            (1, 3),
            "expected white space or the end of the tag",
        ),
        ("<a / >", (1, 4), "an attribute or the end of the tag"),
        ("<a b/>", (1, 5), "expected = after"),
        ("<a>\u{ffff}</a>", (1, 4), "U+FFFF"),
        ("<a>&lt</a>", (1, 4), "expected &amp;"),
        ("<a>&#0;</a>", (1, 4), "no character that XML allows"),
        ("<a>&#+65;</a>", (1, 4), "expected &amp;"),
        ("<a>&#xd800;</a>", (1, 4), "no character that XML allows"),
        (
            "<a>&#4294967361;</a>",
            (1, 4),
            "no character that XML allows",
        ),
        ("<a><!-- ---></a>", (1, 9), "-- inside a comment"),
        ("<a><![CDATA[]]</a>", (1, 4), "expected ]]>"),
        ("<a><?p+?></a>", (1, 7), "expected white space or ?>"),
        ("<a><?p</a>", (1, 4), "expected ?>"),
        ("<a><?p </a>", (1, 4), "expected ?>"),
        ("<a><?XML ?></a>", (1, 4), "expected it as the first"),
        ("<a><! ></a>", (1, 4), "expected <!--"),
    ] {
        let error = read(text).map(|_| ()).unwrap_err();
        assert_eq!((error.line, error.column), place, "{text:?}: {error}");
        assert!(error.problem.contains(expected), "{text:?}: {error}");
        assert!(error.problem.contains("expected"), "{text:?}: {error}");
    }
}

#[test]
fn limits() {
    let deep = "<a>".repeat(MAX_DEPTH + 1) + &"</a>".repeat(MAX_DEPTH + 1);
    let error = read(&deep).unwrap_err();
    assert!(error.problem.contains("nested deeper"), "{error}");
    assert!(read(&deep["<a>".len()..deep.len() - "</a>".len()]).is_ok());
    let large = format!("<a>{}</a>", " ".repeat(MAX_SIZE - 7));
    assert!(read(&large).is_ok());
    assert!(read(&(large + " ")).unwrap_err().problem.contains("16 MiB"));
}

/// This document takes minutes if a step takes time in proportion to the elements or attributes.
#[test]
fn many_of_a_kind() {
    let many = 100_000;
    let attributes: String = (0..many).map(|n| format!(" xmlns:a{n}='{n}'")).collect();
    let children: String = (0..many).map(|n| format!("<a{n}:b/>")).collect();
    let text = format!("<a{attributes}>{children}</a>");
    let document = read(&text).unwrap();
    let last = document.root().children().last().unwrap();
    assert_eq!(last.namespace().unwrap(), (many - 1).to_string());
    let mut edits: Vec<_> = document.elements().map(|e| e.remove()).collect();
    edits.extend(document.elements().map(|e| e.append("<n/>")));
    assert!(document.apply(&edits).ends_with("'><n/></a>"));
}
