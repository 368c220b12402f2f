//! Scripts, put together from what they share. A script makes its functions anew each time it runs, and with ten
//! deliveries in a call that is a tenth of the call: so each brings those alone that it uses, and what only a block
//! uses that few calls come to is made there, at the line `--@here` that it begins with. What they share is written
//! so that this can be seen: a function begins with `local function` at the margin and ends there with `end`, or
//! stands on one line; a block ends where a line is indented less.

use std::collections::HashSet;

const PRELUDE: &str = include_str!("lua/prelude.lua");
const BODIES: &str = include_str!("lua/bodies.lua");
const LANE: &str = include_str!("lua/lane.lua");
const HISTORY: &str = include_str!("lua/history.lua");
const EVENTS: &str = include_str!("lua/events.lua");
const PAGE: &str = include_str!("lua/page.lua");

/// Where a block begins that few calls come to.
const HERE: &str = "--@here";

/// In the order in which they use each other.
const SHARED: [&str; 6] = [PRELUDE, BODIES, LANE, HISTORY, EVENTS, PAGE];

/// A function, or lines between functions.
struct Part {
    name: Option<&'static str>,
    code: String,
}

/// The script, with what it uses of what is shared, and all that stands between functions there.
pub(super) fn whole(flags: &str, script: &str) -> String {
    let shared: Vec<Part> = SHARED.iter().flat_map(|code| parts(code)).collect();
    let pieces = pieces(&bare(script));
    let always: String = pieces.iter().filter(|piece| !piece.seldom).map(|piece| &*piece.code).collect();
    let top = used(&shared, &always, |part| part.name.is_none());
    let mut whole = format!("#!lua{flags}\n");
    whole.extend(taken(&shared, &top));
    for Piece { seldom, code } in pieces {
        if seldom {
            let mut here = used(&shared, &code, |_| false);
            here.iter_mut().zip(&top).for_each(|(here, top)| *here &= !top);
            whole.extend(taken(&shared, &here));
        }
        whole += &code;
    }
    whole
}

/// Which parts the code uses, beside those that it is to have anyway.
fn used(shared: &[Part], code: &str, anyway: impl Fn(&Part) -> bool) -> Vec<bool> {
    let mut used = words(code);
    // From the last one on: functions use those before them.
    let mut taken: Vec<bool> = shared
        .iter()
        .rev()
        .map(|part| {
            let taken = anyway(part) || part.name.is_some_and(|name| used.contains(name));
            if taken {
                used.extend(words(&part.code));
            }
            taken
        })
        .collect();
    taken.reverse();
    taken
}

fn taken<'a>(shared: &'a [Part], taken: &'a [bool]) -> impl Iterator<Item = &'a str> {
    shared.iter().zip(taken).filter_map(|(part, taken)| taken.then_some(&*part.code))
}

/// Lines of a script that every call comes to, or a block that few do.
struct Piece {
    seldom: bool,
    code: String,
}

fn pieces(script: &str) -> Vec<Piece> {
    let mut pieces = vec![Piece { seldom: false, code: String::new() }];
    let mut margin = None;
    for line in script.lines() {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start() == HERE {
            margin = Some(indent);
            pieces.push(Piece { seldom: true, code: String::new() });
            continue;
        }
        if margin.is_some_and(|margin| indent < margin && !line.is_empty()) {
            margin = None;
            pieces.push(Piece { seldom: false, code: String::new() });
        }
        if let Some(piece) = pieces.last_mut() {
            piece.code.push_str(line);
            piece.code.push('\n');
        }
    }
    pieces
}

fn parts(code: &'static str) -> Vec<Part> {
    let mut parts = vec![Part { name: None, code: String::new() }];
    let mut inside = false;
    for line in code.lines().filter(|line| !is_comment(line)) {
        let name = line.strip_prefix("local function ").and_then(|rest| rest.split('(').next());
        if name.is_some() {
            parts.push(Part { name, code: String::new() });
            inside = !line.ends_with(" end");
        }
        if let Some(part) = parts.last_mut() {
            part.code.push_str(line);
            part.code.push('\n');
        }
        if name.is_some() && !inside || inside && line == "end" {
            inside = false;
            parts.push(Part { name: None, code: String::new() });
        }
    }
    parts
}

/// Without the comments that have lines of their own.
fn bare(code: &str) -> String {
    code.lines().filter(|line| !is_comment(line)).flat_map(|line| [line, "\n"]).collect()
}

fn is_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("--") && line != HERE
}

fn words(code: &str) -> HashSet<String> {
    code.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_brings_the_functions_that_it_uses_and_no_others() {
        let script = whole(" flags=x", "-- sweep(nothing)\nreturn has_open(ARGV[3])\n");
        assert!(script.starts_with("#!lua flags=x\n"));
        assert!(script.ends_with("return has_open(ARGV[3])\n"));
        let has = |name: &str| script.contains(&format!("local function {name}("));
        for name in ["has_open", "open_from", "from_place", "lane_end"] {
            assert!(has(name), "{name}");
        }
        for name in ["sweep", "remember", "drop", "values", "page", "lane_of"] {
            assert!(!has(name), "{name}");
        }
        assert!(script.contains("local base, me = "), "what is no function is always there");
    }

    #[test]
    fn what_only_a_block_uses_is_made_where_it_begins() {
        let script = "if odd then\n  --@here\n  keep(lane, l)\n\n  sweep(lane)\nend\nreturn has_open(lane)\n";
        let script = whole("", script);
        let at = |text: &str| script.find(text).unwrap_or_else(|| panic!("{text}"));
        for name in ["keep", "packed", "sweep", "forget"] {
            let made = at(&format!("local function {name}("));
            assert!(at("if odd then\n") < made && made < at("  keep(lane, l)\n"), "{name}");
        }
        assert!(at("local function open_from(") < at("if odd then\n"), "what others use too is made first");
        assert_eq!(script.matches("local function open_from(").count(), 1);
        assert_eq!(script.matches("local base, me = ").count(), 1);
        assert!(script.ends_with("  keep(lane, l)\n\n  sweep(lane)\nend\nreturn has_open(lane)\n"));
    }

    #[test]
    fn nothing_is_lost_but_comments() {
        for code in SHARED {
            let whole: String = parts(code).into_iter().map(|part| part.code).collect();
            assert_eq!(whole, bare(code));
            let functions = code.lines().filter(|line| line.starts_with("local function ")).count();
            assert_eq!(parts(code).iter().filter(|part| part.name.is_some()).count(), functions);
        }
    }
}
