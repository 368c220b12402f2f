//! JSON and XML with line breaks, for people. Every character of the text stays, numbers as they were
//! written. Pure.

/// `body` as `content_type` says it is; other text as it is.
pub fn pretty(content_type: &str, body: &str) -> String {
    if content_type.starts_with("application/json") {
        json(body)
    } else if content_type.starts_with("application/xml") {
        xml(body)
    } else {
        body.to_owned()
    }
}

fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                if rest.peek().is_some_and(|next| !matches!(next, '}' | ']')) {
                    depth += 1;
                    line(&mut out, depth);
                } else {
                    out.extend(rest.next());
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => out.push(c),
        }
    }
    out
}

fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth: usize = 0;
    let mut after_start = false;
    for (at, piece) in text.split('<').enumerate() {
        if at == 0 {
            out.push_str(piece);
            continue;
        }
        let is_end = piece.starts_with('/');
        let tag = piece.split_once('>').map_or(piece, |(tag, _)| tag);
        let is_start = !is_end && !tag.starts_with(['?', '!']) && !tag.ends_with('/');
        if is_end {
            depth = depth.saturating_sub(1);
        }
        // An element's text stays between its tags.
        if at > 1 && !(is_end && after_start) {
            line(&mut out, depth);
        }
        out.push('<');
        out.push_str(piece);
        if is_start {
            depth += 1;
        }
        after_start = is_start;
    }
    out
}

fn line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_laid_out_and_keep_their_characters() {
        for (content_type, body, laid_out) in [
            (
                "application/json; charset=utf-8",
                r#"{"a":[1.50,"x,\"{"],"b":{},"c":[]}"#,
                "{\n  \"a\": [\n    1.50,\n    \"x,\\\"{\"\n  ],\n  \"b\": {},\n  \"c\": []\n}",
            ),
            (
                "application/xml; charset=utf-8",
                r#"<?xml version="1.0"?><a><b k="v">x y</b><c/><d></d></a>"#,
                "<?xml version=\"1.0\"?>\n<a>\n  <b k=\"v\">x y</b>\n  <c/>\n  <d></d>\n</a>",
            ),
            ("text/plain", "{<", "{<"),
        ] {
            assert_eq!(pretty(content_type, body), laid_out);
        }
    }
}
