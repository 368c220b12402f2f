//! Scripts, put together from what they share. A script makes its functions anew each time it runs, and with ten
//! deliveries in a call that is a tenth of the call: so each brings those alone that it uses. What they share is
//! written so that this can be seen: a function begins with `local function` at the margin and ends there with
//! `end`, or stands on one line.

use std::collections::HashSet;

const PRELUDE: &str = include_str!("lua/prelude.lua");
const BODIES: &str = include_str!("lua/bodies.lua");
const LANE: &str = include_str!("lua/lane.lua");
const HISTORY: &str = include_str!("lua/history.lua");
const EVENTS: &str = include_str!("lua/events.lua");
const PAGE: &str = include_str!("lua/page.lua");

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
    let mut used: HashSet<String> = words(&bare(script));
    let mut taken = vec![false; shared.len()];
    // From the last one on: functions use those before them.
    for (part, taken) in shared.iter().zip(&mut taken).rev() {
        *taken = part.name.is_none_or(|name| used.contains(name));
        if *taken {
            used.extend(words(&part.code));
        }
    }
    let shared = shared.into_iter().zip(taken).filter_map(|(part, taken)| taken.then_some(part.code));
    format!("#!lua{flags}\n{}{}", shared.collect::<String>(), bare(script))
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
    line.trim_start().starts_with("--")
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
    fn nothing_is_lost_but_comments() {
        for code in SHARED {
            let whole: String = parts(code).into_iter().map(|part| part.code).collect();
            assert_eq!(whole, bare(code));
            let functions = code.lines().filter(|line| line.starts_with("local function ")).count();
            assert_eq!(parts(code).iter().filter(|part| part.name.is_some()).count(), functions);
        }
    }
}
