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
    // The place, the document, and a part of the error.
    for row in [
        "1:6|<?xml?><a/>|expected version='1.0'",
        "1:22|<?xml version='1.0'?><?xml version='1.0'?><a/>|expected it at the start",
        "1:16|<?xml version='2.0'?><a/>|version='1.0'",
        "1:20|<?xml version='1.0'encoding='UTF-8'?><a/>|expected white space",
        "1:37|<?xml version='1.0' encoding='UTF-8'standalone='no'?><a/>|expected white space",
        "1:33|<?xml version='1.0' standalone='x'?><a/>|expected yes or no",
        "1:21|<?xml version='1.0' x='1'?><a/>|expected ?>",
        "1:31|<?xml version='1.0' encoding='`rm`'?><a/>|no encoding",
        "2:2|<a/>\n x|expected the end of the document",
        "1:5|<a/><![CDATA[]]>|text beside the root element",
        "1:1|</a>|an end tag without a start tag",
        "1:2|\u{feff}\u{feff}<a/>|text beside the root element",
        "2:1|\u{feff}<a>\n&</a>|expected &amp;",
        "1:9|<a b='1'c>|expected white space",
        "1:9|<a b='1'/|the end of the tag",
        "1:4|<a \"='1'/>|the name of an attribute",
        "1:6|<a b='></a>|expected ' before",
        "1:1|<!-x --><a/>|expected <!--",
        "1:4|<a>&b c;</a>|expected &amp;",
        "1:13|<a><!-- a-b -- --></a>|-- inside a comment",
        "1:4|<a></ab>|expected </a>",
        "1:5|<ab></a>|expected </ab>",
        "1:8|<a></a b=''>|expected > of an end tag",
        "1:7|<a></a|the document ends: expected > of an end tag",
        "1:3|<a|the document ends: expected the end of the tag",
        "1:4|<a |expected the end of the tag",
        "1:2|< a/>|expected the name of an element",
        "1:3|<a+/>|expected white space or the end of the tag",
        "1:4|<a / >|an attribute or the end of the tag",
        "1:5|<a b/>|expected = after",
        "1:4|<a>\u{ffff}</a>|U+FFFF",
        "1:4|<a>&lt</a>|expected &amp;",
        "1:4|<a>&#0;</a>|no character that XML allows",
        "1:4|<a>&#+65;</a>|expected &amp;",
        "1:4|<a>&#xd800;</a>|no character that XML allows",
        "1:4|<a>&#4294967361;</a>|no character that XML allows",
        "1:9|<a><!-- ---></a>|-- inside a comment",
        "1:4|<a><![CDATA[]]</a>|expected ]]>",
        "1:7|<a><?p+?></a>|expected white space or ?>",
        "1:4|<a><?p</a>|expected ?>",
        "1:4|<a><?p </a>|expected ?>",
        "1:4|<a><?XML ?></a>|expected it at the start",
        "1:4|<a><! ></a>|expected <!--",
    ] {
        let [place, text, expected] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let error = read(text).map(|_| ()).unwrap_err();
        assert_eq!(format!("{}:{}", error.line, error.column), place, "{row}");
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
