//! What settings mean and which are refused, by table.

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    ingress: IngressArgs,
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    process: ProcessArgs,
}

fn cli(flags: &[&str]) -> Cli {
    Cli::try_parse_from([&["test"], flags].concat()).unwrap()
}

/// A file in `folder`, as text.
fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn everything_has_a_default_that_works_on_one_machine() {
    let cli = cli(&[]);
    let mut problems = Problems::default();
    let listeners = [("--config-addr", "127.0.0.1:50051".parse().unwrap())];
    assert_eq!(cli.store.check(&mut problems), Some(Store::Disk("./data".into())));
    assert_eq!(cli.ingress.check(&listeners, Some(listeners[0].1), &mut problems), None);
    assert!(cli.egress.check(&listeners, &mut problems).development);
    assert_eq!((cli.process.log.as_str(), cli.process.log_format), ("info", LogFormat::Text));
    assert_eq!(problems, Problems::default());
}

#[test]
fn development_mode_is_on_by_itself_on_loopback_alone() {
    for (flags, listeners, on) in [
        (&[][..], &["127.0.0.1:1", "[::1]:2"][..], true),
        (&[], &["127.0.0.1:1", "10.0.0.1:2"], false),
        (&[], &["0.0.0.0:1"], false),
        (&["--no-development"], &["127.0.0.1:1"], false),
        (&["--development"], &["0.0.0.0:1"], true),
    ] {
        let listeners: Vec<_> = listeners.iter().map(|at| ("--addr", at.parse().unwrap())).collect();
        let rules = cli(flags).egress.check(&listeners, &mut Problems::default());
        assert_eq!(rules.development, on, "{flags:?} {listeners:?}");
    }
    let rules = cli(&["--allow-http", "--allow-network", "10.0.0.0/8,fd00::/8"]).egress;
    let rules = rules.check(&[], &mut Problems::default());
    assert!(rules.allow_http);
    assert_eq!(rules.allowed, ["10.0.0.0/8".parse::<IpNet>().unwrap(), "fd00::/8".parse().unwrap()]);
}

#[test]
fn beyond_loopback_takes_insecure_and_the_feed_of_secrets_a_token_too() {
    let folder = tempfile::tempdir().unwrap();
    let token = file(&folder, "token", "t0ken\n");
    for (flags, listener, routes, wrong) in [
        (&[][..], "127.0.0.1:1", true, &[][..]),
        (&[], "0.0.0.0:1", false, &["--insecure"]),
        (&[], "[::]:1", true, &["--insecure", "--route-token-file"]),
        (&["--insecure"], "0.0.0.0:1", false, &[]),
        (&["--insecure"], "0.0.0.0:1", true, &["--route-token-file"]),
        (&["--insecure", "--route-token-file", &token], "0.0.0.0:1", true, &[]),
    ] {
        let address: SocketAddr = listener.parse().unwrap();
        let mut problems = Problems::default();
        cli(flags).ingress.check(&[("--addr", address)], routes.then_some(address), &mut problems);
        assert_eq!(problems.0.len(), wrong.len(), "{flags:?} {listener}: {problems}");
        for (problem, wrong) in problems.0.iter().zip(wrong) {
            assert!(problem.contains(wrong), "{problem}");
        }
    }
    let mut problems = Problems::default();
    let secret = cli(&["--route-token-file", &token]).ingress.check(&[], None, &mut problems).unwrap();
    assert_eq!(secret.expose(), "t0ken");
    assert!(!format!("{secret:?}").contains("t0ken"));
}

#[test]
fn all_problems_are_named_together_and_no_secret_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, text) = (file(&folder, "empty", "\n"), file(&folder, "text", "two words\n"));
    let cli = cli(&[
        "--redis-url",
        "redis://:s3cret@host:99999",
        "--redis-prefix",
        "a{b}",
        "--redis-ca",
        &text,
        "--redis-password-file",
        &empty,
        "--route-token-file",
        &text,
        "--development",
        "--no-development",
    ]);
    let mut problems = Problems::default();
    assert_eq!(cli.store.check(&mut problems), None);
    assert_eq!(cli.ingress.check(&[], None, &mut problems), None);
    cli.egress.check(&[], &mut problems);
    let text = problems.to_string();
    for flag in [
        "--redis-url has a port",
        "--redis-prefix must",
        "is no PEM",
        "is empty",
        "--route-token-file must",
        "exclude each other",
    ] {
        assert!(text.contains(flag), "{flag} in {text}");
    }
    assert_eq!(problems.0.len(), 6);
    assert!(!text.contains("s3cret") && !format!("{cli:?}").contains("s3cret"));
}

#[test]
fn a_redis_password_comes_from_a_file_or_from_the_url() {
    let folder = tempfile::tempdir().unwrap();
    let password = file(&folder, "password", "p/w \r\n");
    let check = |url: &str| {
        let mut problems = Problems::default();
        let cli = cli(&["--redis-url", url, "--redis-password-file", &password]);
        (cli.store.check(&mut problems), problems.0.len())
    };
    let (Some(Store::Redis(redis)), 0) = check("redis://h") else { panic!() };
    assert_eq!(redis.address.password.as_deref(), Some("p/w "));
    assert!(!format!("{redis:?}").contains("p/w"));
    assert_eq!(check("redis://:x@h").1, 1);
    let mut problems = Problems::default();
    cli(&["--redis-password-file", &password]).store.check(&mut problems);
    assert_eq!(problems.0, ["--redis-password-file has no effect without --redis-url"]);
}
