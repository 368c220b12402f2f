//! Counts beside those of before: which have risen, and whether that is too much.

use std::{collections::BTreeMap, fmt::Write};

/// A rise of so much is too much.
const MOST: f64 = 0.05;

/// One line a part: instructions, two spaces, name.
pub fn written(counts: &[(&str, u64)]) -> String {
    let mut text = String::from(
        "# Instructions that a part takes once. `cargo run --profile counts -p instructions -- --write`\n",
    );
    for (name, count) in counts {
        let _ = writeln!(text, "{count:>9}  {name}");
    }
    text
}

/// A table of part, before, now and ratio, and whether all is well: every part is known, and none has
/// risen by more than it may.
pub fn table(before: &str, counts: &[(&str, u64)]) -> (String, bool) {
    let mut known: BTreeMap<&str, u64> = before.lines().filter_map(line).collect();
    let mut table = format!("{:<32} {:>10} {:>10} {:>7}\n", "part", "before", "now", "ratio");
    let mut holds = true;
    for (name, now) in counts {
        let Some(before) = known.remove(name) else {
            let _ =
                writeln!(table, "{name:<32} {:>10} {now:>10}          NEW: write it down with --write", "");
            holds = false;
            continue;
        };
        let ratio = *now as f64 / before as f64;
        let verdict = match ratio {
            _ if ratio > 1.0 + MOST => "  RISEN by more than 5 %",
            _ if ratio < 1.0 - MOST => "  fallen: keep it with --write",
            _ => "",
        };
        holds &= ratio <= 1.0 + MOST;
        let _ = writeln!(table, "{name:<32} {before:>10} {now:>10} {ratio:>7.3}{verdict}");
    }
    for (name, before) in known {
        let _ = writeln!(table, "{name:<32} {before:>10}                     GONE: take it out with --write");
        holds = false;
    }
    (table, holds)
}

fn line(text: &str) -> Option<(&str, u64)> {
    let (count, name) = text.trim().split_once("  ")?;
    Some((name, count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_above_five_percent_fails_and_a_fall_does_not() {
        let before = written(&[("sign", 1_000), ("match it", 200)]);
        for (sign, holds, says) in [
            (1_000, true, "1.000\n"),
            (1_050, true, "1.050\n"),
            (1_051, false, "RISEN"),
            (500, true, "fallen"),
        ] {
            let (table, held) = table(&before, &[("sign", sign), ("match it", 200)]);
            assert!(held == holds && table.contains(says), "{table}");
        }
    }

    #[test]
    fn parts_that_are_new_or_gone_are_to_be_written_down() {
        let before = written(&[("sign", 1_000)]);
        let (shown, holds) = table(&before, &[("sign", 1_000), ("match it", 200)]);
        assert!(!holds && shown.contains("NEW"), "{shown}");
        let (shown, holds) = table(&before, &[]);
        assert!(!holds && shown.contains("GONE"), "{shown}");
    }
}
