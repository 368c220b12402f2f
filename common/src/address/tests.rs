//! The egress rules by table.

use super::*;

fn range(rules: &Rules, address: &str) -> &'static str {
    rules.check(address.parse().unwrap()).err().map_or("", |it| it.range)
}

#[test]
fn forbidden_addresses_are_named_by_their_range_and_others_pass() {
    let rules = Rules::default();
    for (name, addresses) in [
        (
            "",
            "1.1.1.1 8.8.8.8 93.184.216.34 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255",
        ),
        ("", "128.0.0.0 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0"),
        ("", "192.0.1.1 198.17.255.255 198.20.0.0 203.0.112.255 203.0.114.0 223.255.255.255"),
        (
            "",
            "2606:4700:4700::1111 2001:4860:4860::8888 2a00:1450::1 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 ::8.8.8.8",
        ),
        ("", "2002:808:808::1 2001:0:808:808::f7f7:f7f7 2606:4700::5efe:8.8.8.8 ::ffff:0:8.8.8.8"),
        (
            "loopback",
            "127.0.0.1 127.255.255.255 127.1.2.3 ::1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::127.0.0.1",
        ),
        ("loopback", "2002:7f00:1:: 2001:0:7f00:1::f7f7:f7f7 2001:0:808:808::80ff:fffe ::ffff:0:127.0.0.1"),
        ("private", "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.1 ::ffff:10.0.0.1"),
        (
            "private",
            "64:ff9b::192.168.0.1 2002:a00:1:: 2606:4700::5efe:10.0.0.1 2606:4700::200:5efe:10.0.0.1",
        ),
        ("link-local", "169.254.0.1 169.254.255.255 fe80::1 febf:: ::ffff:169.254.1.1 fe80::5efe:8.8.8.8"),
        ("metadata", "169.254.169.254 169.254.170.2 100.100.100.200 192.0.0.192 168.63.129.16 fd00:ec2::254"),
        ("metadata", "::ffff:169.254.169.254 64:ff9b::a9fe:a9fe fd20:ce::254"),
        ("multicast", "224.0.0.1 239.255.255.255 ff02::1 ff0e::1"),
        ("unspecified", "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0"),
        ("broadcast", "255.255.255.255 ::ffff:255.255.255.255"),
        ("documentation", "192.0.2.1 198.51.100.1 203.0.113.255 2001:db8::1 3fff::1"),
        ("carrier NAT", "100.64.0.0 100.127.255.255 ::ffff:100.64.0.1"),
        ("benchmarking", "198.18.0.0 198.19.255.255 2001:2::1"),
        (
            "reserved",
            "240.0.0.1 255.255.255.254 192.0.0.1 100::1 4000::1 200::1 2001:10::1 2001:2f:: 5f00::1",
        ),
        ("unique-local", "fc00::1 fdff:ffff::1"),
        ("site-local", "fec0::1"),
        ("local NAT64", "64:ff9b:1::8.8.8.8 64:ff9b:1:ffff::"),
    ] {
        for address in addresses.split(' ') {
            assert_eq!(range(&rules, address), name, "{address}");
        }
    }
}

#[test]
fn operators_networks_win_also_over_what_is_embedded() {
    let allowed = ["10.0.0.0/8", "fd12::/16", "64:ff9b:1::/48"].map(|it| it.parse().unwrap()).to_vec();
    let rules = Rules { allowed, ..Rules::default() };
    for address in
        ["10.1.2.3", "fd12::1", "::ffff:10.1.2.3", "64:ff9b::10.0.0.1", "2002:a00:1::", "64:ff9b:1::1"]
    {
        assert_eq!(range(&rules, address), "", "{address}");
    }
    assert_eq!(range(&rules, "192.168.0.1"), "private");
    assert_eq!(range(&rules, "127.0.0.1"), "loopback");
    assert_eq!(range(&rules, "fd13::1"), "unique-local");
}

#[test]
fn development_allows_loopback_and_nothing_else() {
    let rules = Rules { development: true, ..Rules::default() };
    for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(range(&rules, address), "", "{address}");
    }
    for address in ["10.0.0.1", "0.0.0.0", "::", "169.254.169.254", "fe80::1"] {
        assert_ne!(range(&rules, address), "", "{address}");
    }
}

#[test]
fn urls_that_nothing_has_to_mend_pass() {
    let rules = Rules { allow_http: true, ..Rules::default() };
    for url in [
        "https://example.com",
        "https://example.com/hooks/a%20b?x=1&y=%C3%A9#part",
        "https://example.com:8443/",
        "http://example.com:80/a;b=c,d/(e)'!*$@:/..//x?/?",
        "HTTPS://EXAMPLE.com./",
        "https://xn--bcher-kva.example/",
        "https://a_b.example/",
        "https://1.1.1.1/",
        "https://[2606:4700:4700::1111]:443/x",
        "https://example.com?x=1",
        "https://9to5.example/",
        "https://0xyz.example/",
        &format!("https://example.com/{}", "x".repeat(2028)),
    ] {
        assert_eq!(rules.check_url(url), Ok(()), "{url}");
    }
}

#[test]
fn urls_that_are_none_or_lead_where_none_may_are_refused_with_a_reason() {
    let rules = Rules { allow_http: true, ..Rules::default() };
    for (url, why) in [
        ("", "required"),
        ("example.com/x", "https://"),
        ("ftp://example.com/", "https://"),
        ("https:/example.com/", "https://"),
        ("https:example.com", "https://"),
        (" https://example.com/", "https://"),
        ("https://", "host"),
        ("https:///path", "host"),
        ("https://:443/", "host"),
        ("https://?x", "host"),
        ("https://user@example.com/", "user info"),
        ("https://user:pw@example.com/", "user info"),
        ("https://example.com\\@evil.com/", "user info"),
        ("https://example.com\\evil", "host"),
        ("https://example.com/a b", "' '"),
        ("https://example.com/\ttab", "'\\t'"),
        ("https://exam\nple.com/", "host"),
        ("https://example.com/\u{e9}", "'é'"),
        ("https://b\u{fc}cher.example/", "host"),
        ("https://example.com/%zz", "% "),
        ("https://example.com/%2", "% "),
        ("https://example.com/?%", "% "),
        ("https://example.com/#%g0", "% "),
        ("https://ex%61mple.com/", "host"),
        ("https://example.com/<x>", "'<'"),
        ("https://example.com/{x}", "'{'"),
        ("https://example.com/?a|b", "'|'"),
        ("https://example.com/?a=[1]", "'['"),
        ("https://example.com/#a#b", "'#'"),
        ("https://example..com/", "labels"),
        ("https://.example.com/", "labels"),
        ("https://-a.example/", "labels"),
        (&format!("https://{}.com/", "a".repeat(64)), "labels"),
        ("https://example.com:/", "port"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:+443/", "port"),
        ("https://example.com:0443/", "port"),
        ("https://example.com:22/", "port 22"),
        ("https://example.com:1023/", "port 1023"),
        ("https://[::1/", "IPv6"),
        ("https://[v1.x]/", "IPv6"),
        ("https://[fe80::1%25eth0]/", "IPv6"),
        ("https://[::1]x/", "IPv6"),
        ("https://127.0.0.1/", "loopback"),
        ("https://[::1]/", "loopback"),
        ("https://[::ffff:10.0.0.1]/", "private"),
        ("https://169.254.169.254/latest", "metadata"),
        ("https://127.1/", "four decimal"),
        ("https://2130706433/", "four decimal"),
        ("https://0x7f.1/", "four decimal"),
        ("https://0x7f000001/", "four decimal"),
        ("https://0177.0.0.1/", "four decimal"),
        ("https://127.0.0.1./", "four decimal"),
        ("https://1.2.3.4.5/", "four decimal"),
        ("https://localhost/", "loopback"),
        ("https://LOCALHOST.:8443/", "loopback"),
        ("https://api.localhost/", "loopback"),
        (&format!("https://example.com/{}", "x".repeat(2029)), "2048 bytes"),
    ] {
        let refused = rules.check_url(url).expect_err(url);
        assert!(refused.contains(why), "{url}: {refused}");
    }
}

#[test]
fn http_and_this_machine_are_for_development_or_where_they_are_allowed() {
    let url = "http://127.0.0.1:8080/hook";
    assert!(Rules::default().check_url(url).unwrap_err().contains("https"));
    assert!(Rules { allow_http: true, ..Rules::default() }.check_url(url).unwrap_err().contains("loopback"));
    let development = Rules { development: true, ..Rules::default() };
    for url in [url, "http://localhost:8080/", "https://[::1]:8443/"] {
        assert_eq!(development.check_url(url), Ok(()), "{url}");
    }
    assert!(development.check_url("http://10.0.0.1/").is_err());
}
