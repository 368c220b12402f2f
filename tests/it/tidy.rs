//! The house rules that a script can see: who may use whom, how long a file is, that every file says
//! what it is, and that every setting is documented.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use integration_tests::process::binary;

const LONGEST: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All of the project's Rust, its path from the root and its text.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders: Vec<_> =
        ["proto", "common", "config-service", "delivery-service", "standalone", "tests"]
            .map(|f| root().join(f))
            .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                files.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(files.len() > 50, "the sources are found");
    files
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST)
        .collect();
    assert!(long.is_empty(), "over {LONGEST} lines: {long:?}");
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(name, _)| name).collect();
    assert!(silent.is_empty(), "no head comment: {silent:?}");
}

/// Words that the Rust of some rooms must not hold.
#[test]
fn the_rooms_use_only_whom_they_may() {
    let rules: &[(&str, &[&str], &[&str])] = &[
        // Room, words, files that may.
        ("config-service/", &["delivery_service::"], &[]),
        ("delivery-service/", &["config_service::"], &[]),
        ("common/", &["config_service::", "delivery_service::"], &[]),
        ("proto/", &["common::", "config_service::", "delivery_service::"], &[]),
        // Proto types stop at the services' edges.
        (
            "delivery-service/src/",
            &["proto::v1"],
            &["api/", "routes/convert", "routes/watch", "routes/upstream", "routes/disable"],
        ),
        // Redis and the embedded store stop at one backend each.
        ("delivery-service/src/", &["redb::"], &["queue/disk"]),
        ("delivery-service/src/", &["redis::cmd", "redis::Script", "redis::Value"], &["queue/redis"]),
        ("config-service/src/", &["redb::"], &["store/disk", "store/tables"]),
        (
            "config-service/src/",
            &["redis::cmd", "redis::Script", "redis::Value"],
            &["store/redis", "store/scripts"],
        ),
        // HTTP's connections stop at the sender, TLS there and on the way to config-service.
        ("delivery-service/src/", &["hyper::", "hyper_util::"], &["send/"]),
        ("delivery-service/src/", &["rustls::"], &["send/", "routes/upstream"]),
    ];
    let pure = [
        "common/src/event.rs",
        "common/src/body.rs",
        "common/src/filter.rs",
        "common/src/matching.rs",
        "common/src/address.rs",
        "common/src/page.rs",
        "config-service/src/validate/mod.rs",
        "config-service/src/mask/mod.rs",
        "delivery-service/src/delivery.rs",
        "delivery-service/src/retry.rs",
        "delivery-service/src/lanes/lane.rs",
        "delivery-service/src/payload/json.rs",
        "delivery-service/src/payload/xml.rs",
        "delivery-service/src/auth/signature.rs",
        "delivery-service/src/routes/convert.rs",
        "delivery-service/src/routes/account.rs",
    ];
    let mut broken = Vec::new();
    let all = sources();
    for (name, text) in &all {
        for (room, words, but) in rules {
            let Some(rest) = name.strip_prefix(room) else { continue };
            let may = but.iter().any(|allowed| rest.starts_with(allowed)) || rest.contains("tests");
            for word in words.iter().filter(|word| !may && text.contains(**word)) {
                broken.push(format!("{name} uses {word}"));
            }
        }
        if pure.contains(&name.as_str()) {
            for word in ["tokio::", "tonic::", "SystemTime::now", "Instant::now()", "rand::random"] {
                let code = text.split("#[cfg(test)]").next().unwrap();
                if code.contains(word) {
                    broken.push(format!("{name} is pure and uses {word}"));
                }
            }
        }
    }
    for name in pure {
        assert!(all.iter().any(|(file, _)| file == name), "{name} is gone: mend this list");
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_setting_is_documented_with_its_twin() {
    let documented = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    for name in ["hookline", "config-service", "delivery-service"] {
        let help = Command::new(binary(name)).arg("--help").output().unwrap().stdout;
        let help = String::from_utf8(help).unwrap();
        let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        let settings: BTreeSet<_> = words
            .filter(|word| word.starts_with("--") && word.len() > 2 || word.starts_with("HOOKLINE_"))
            .collect();
        assert!(settings.len() > 10, "{settings:?}");
        for setting in settings.iter().filter(|s| !["--help", "--version"].contains(s)) {
            assert!(
                documented.contains(&format!("`{setting}`")),
                "{name} {setting} is not in docs/configuration.md"
            );
        }
    }
}
