//! Text as XML 1.0 can carry it through any parser unchanged.

/// Between tags. CR would be read as LF, so it is a reference; ">" because of "]]>".
pub(super) fn text(out: &mut String, text: &str) {
    escape(out, text, |c| match c {
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '\r' => "&#13;",
        '\t' | '\n' => "",
        _ => forbidden(c),
    });
}

/// Between double quotes, where parsers make spaces of line ends and tabs.
pub(super) fn attribute(out: &mut String, text: &str) {
    escape(out, text, |c| match c {
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '"' => "&quot;",
        '\r' => "&#13;",
        '\n' => "&#10;",
        '\t' => "&#9;",
        _ => forbidden(c),
    });
}

/// XML 1.0, production 2: all else is a Char.
fn forbidden(c: char) -> &'static str {
    match c {
        '\0'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}' => "\u{FFFD}",
        _ => "",
    }
}

/// `with` gives what stands for a character; empty: it stands for itself.
fn escape(out: &mut String, text: &str, with: impl Fn(char) -> &'static str) {
    let mut written = 0;
    for (at, c) in text.char_indices() {
        // Most text is printable ASCII without markup.
        if c.is_ascii_alphanumeric() || c == ' ' {
            continue;
        }
        let replacement = with(c);
        if !replacement.is_empty() {
            out.push_str(&text[written..at]);
            out.push_str(replacement);
            written = at + c.len_utf8();
        }
    }
    out.push_str(&text[written..]);
}
