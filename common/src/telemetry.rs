//! Logs, as text or JSON lines, to standard error: standard output is the demo's.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, Problems, ProcessArgs};

/// What is wrong with the filter goes to `problems`.
pub fn check(args: &ProcessArgs, problems: &mut Problems) {
    problems.note("--log", EnvFilter::try_new(&args.log));
}

/// Logs from here on. A second call in a process changes nothing.
pub fn start(args: &ProcessArgs) {
    let filter = EnvFilter::try_new(&args.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match args.log_format {
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(false).try_init(),
    };
    // Tests start several services in one process; the first one's logs serve all.
    drop(started);
}
