//! How many instructions each part of the hot path takes, by callgrind, compared with what it took when
//! `counts.txt` was written: a rise above 5 % fails. A part is run twice, so many times and twice so many,
//! and the difference counts: what it takes to start is left out. Hash maps have new seeds in each process,
//! and with some of them keys get in each other's way: the least of several runs counts.
//!
//! `cargo run --profile counts -p instructions [-- --write]`

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a part that cannot run has failed"
)]

mod compare;
mod parts;
#[path = "../../../delivery-service/benches/subject/mod.rs"]
mod subject;

use std::{
    env, fs,
    path::Path,
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context, ensure};
use clap::Parser;

use crate::parts::{PARTS, Part};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What glibc chooses by the machine it runs on is left to its plainest choice, so that machines agree.
/// (Of all else, SHA-256 and memchr, valgrind's own processor decides, which has AVX2 and no SHA.)
const PLAIN: &str =
    "glibc.cpu.hwcaps=-AVX2,-AVX,-ERMS,-FSRM,-SSSE3,-AVX_Fast_Unaligned_Load,-Fast_Unaligned_Copy";

/// Processes for one number. (One in thirty finds an event's account or name at the second try only.)
const RUNS: usize = 4;

/// Counts the instructions of the hot path and compares them with counts.txt
#[derive(Debug, Parser)]
struct Cli {
    /// Writes counts.txt anew: for a rise that is worth it, or a fall that is to stay
    #[arg(long)]
    write: bool,

    /// Runs the part at this index so many times, and counts nothing
    #[arg(long, hide = true, num_args = 2)]
    run: Vec<u64>,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if let [part, times] = cli.run[..] {
        (PARTS[part as usize].run)(times);
        return Ok(ExitCode::SUCCESS);
    }
    let counts = count()?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.txt");
    if cli.write {
        fs::write(&file, compare::written(&counts))?;
        println!("{} is written", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let before = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let (table, holds) = compare::table(&before, &counts);
    print!("{table}");
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// By part. Two at a time.
fn count() -> anyhow::Result<Vec<(&'static str, u64)>> {
    let mut counts = Vec::new();
    for pair in (0..PARTS.len()).collect::<Vec<_>>().chunks(2) {
        let results: Vec<_> = thread::scope(|scope| {
            let runs: Vec<_> = pair.iter().map(|n| scope.spawn(move || once(*n))).collect();
            runs.into_iter().map(|run| run.join().expect("a count")).collect()
        });
        for (n, result) in pair.iter().zip(results) {
            counts.push((PARTS[*n].name, result.with_context(|| PARTS[*n].name)?));
        }
    }
    Ok(counts)
}

/// Instructions that a part takes once.
fn once(n: usize) -> anyhow::Result<u64> {
    let Part { times, .. } = PARTS[n];
    let (few, many) = (least(n, times)?, least(n, 2 * times)?);
    Ok(many.saturating_sub(few) / times)
}

/// Instructions of the luckiest of the processes that run a part so many times.
fn least(n: usize, times: u64) -> anyhow::Result<u64> {
    let mut least = u64::MAX;
    for _ in 0..RUNS {
        least = least.min(collected(n, times)?);
    }
    Ok(least)
}

/// Instructions of a process that runs a part so many times.
fn collected(n: usize, times: u64) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["--run", &n.to_string(), &times.to_string()])
        .env("GLIBC_TUNABLES", PLAIN)
        .output()
        .context("valgrind is needed: apt-get install valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = collected.with_context(|| format!("no count in {said}"))?;
    Ok(count.trim().parse()?)
}
