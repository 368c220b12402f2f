//! What expressions come to, what is refused, and what it may cost.

use proptest::prelude::*;

use super::*;

const BODY: &str = r#"{
    "event_data": {"result": "SUCCESS", "price": 40, "part": 39.8, "whole": 39.0, "big": 9007199254740993,
        "huge": 1e400, "tags": ["a", "b"], "items": [{"sku": "x", "n": 1}, {"sku": "y", "n": 3}], "none": null,
        "odd": "\ud800!", "smile": "\ud83d\ude00", "yes": true, "Product ID": 7},
    "system_data": {"sdk": "ANDROID"},
    "event_time": "2016-06-01T15:53:59+0000",
    "event_name": "push_notification_accepted",
    "user_id": null
}"#;

fn verdict(source: &str) -> Result<(), NotTrue> {
    Filter::compile(source)
        .unwrap_or_else(|e| panic!("{source}: {e}"))
        .verdict(&Subject::parse(BODY.as_bytes()))
}

#[test]
fn true_expressions_match() {
    for source in [
        r#"event.event_data.result == "SUCCESS""#,
        "event.event_name.startsWith('push_') && event.event_name.endsWith('accepted')",
        "event.event_name.contains('notification')",
        "event.event_name.matches('^push_[a-z]+_accepted$')",
        r"event.event_name.matches(r'^\w+$') && matches(event.event_name, r'(?i)PUSH\w')",
        r"!event.event_name.matches(r'^[\w.]+@[\w.]+\.\w{2,}$')",
        "event.event_data.price == 40.0 && event.event_data.price == 40",
        "event.event_data.whole == 39 && event.event_data.whole + 1 == event.event_data.price",
        "event.event_data.price > 39.5 && 39.5 < event.event_data.price && event.event_data.part < 40",
        "event.event_data.part >= 39.8 && event.event_data.part * 10 == 398.0",
        "event.event_data.price / 3 == 13 && event.event_data.price % 7 == 5 && -event.event_data.price < 0",
        "event.event_data.big == 9007199254740993 && event.event_data.big != 9007199254740992",
        "event.event_data.huge > 1e300",
        "event.event_data['Product ID'] == 7u",
        "event.event_data.tags == ['a', 'b'] && event.event_data.tags[1] == 'b' && 'a' in event.event_data.tags",
        "'sdk' in event.system_data && size(event.event_data.tags) == 2 && event.event_data.tags.size() == 2",
        "event.event_data.items.exists(i, i.sku == 'y' && i.n > 2)",
        "event.event_data.items.all(i, i.n > 0) && event.event_data.items.exists_one(i, i.n == 3)",
        "event.event_data.items.map(i, i.n) == [1, 3] && event.event_data.items.filter(i, i.n > 1).size() == 1",
        "event.event_data.items.map(i, i.n > 1, i.sku) == ['y']",
        "event.event_data.items.all(i, event.event_data.tags.exists(t, t != i.sku))",
        "event.system_data.exists(key, key == 'sdk')",
        "has(event.event_data.result) && !has(event.event_data.nothing)",
        "event.user_id == null && event.event_data.none == null && event.event_data.yes",
        "event.event_data.missing == 1 || event.event_data.price == 40",
        "!(event.event_data.missing == 1 && false)",
        "event.event_data.price > 10 ? event.event_data.yes : false",
        "event.event_data.odd == '\u{FFFD}!' && event.event_data.smile == '\u{1F600}'",
        "size(event.event_data.smile) == 1 && 'ab' + 'c' == 'abc' && [1] + [2] == [1, 2]",
        "event.event_time >= '2016-06-01' && event.event_time < '2016-07'",
        "string(event.event_data.price) == '40' && int('4') == 4 && int(39.9) == 39 && double('1.5') == 1.5",
        "bool('true') && dyn(1) == 1 && {'a': 1}.a == 1 && {'a': 1, 2: 3}[2] == 3 && {'a': 1} == {'a': 1.0}",
        "event.event_data.price != 'SUCCESS' && 1 != '1' && 1.0 == 1 && 1.5 != 1",
        "9223372036854775807 < 9223372036854775808.0 && 1 < 1.5 && -1.5 < -1",
        ".event.event_data.yes",
        "[1, 2].exists(event, event == 2)",
        "event.event_data.items.exists(i, i.missing == 1 || i.n == 3)",
    ] {
        assert_eq!(verdict(source), Ok(()), "{source}");
    }
}

#[test]
fn false_is_told_from_an_error_and_neither_matches() {
    assert_eq!(verdict("event.event_name == 'x'"), Err(NotTrue::False));
    for (source, why) in [
        ("event.event_data.missing == 1", "no key \"missing\""),
        ("event.event_data.missing.deeper == 1", "no key \"missing\""),
        ("event.event_data.price.deeper == 1", "an int"),
        ("event.event_data.tags[2] == 'c'", "no item 2"),
        ("event.event_data.tags[-1] == 'c'", "no item -1"),
        ("event.event_data.result > 1", ">"),
        ("event.event_data.result + 1 == 2", "arithmetic"),
        ("event.event_data.price", "an int, not a boolean"),
        ("event.event_data.price / 0 == 1", "divides by zero"),
        ("event.event_data.price % 0 == 1", "divides by zero"),
        ("event.event_data.big * event.event_data.big > 0", "too large"),
        ("event.event_data.price && true", "&&"),
        ("event.event_data.items.all(i, i.missing == 1)", "no key"),
        ("event.event_data.price.exists(i, true)", "a macro"),
        ("int(event.event_data.result) == 1", "no int"),
        ("-9223372036854775808 / -1 > 0", "too large"),
        ("size(1) == 1", "size"),
    ] {
        match verdict(source) {
            Err(NotTrue::Error(said)) => assert!(said.contains(why), "{source}: {said}"),
            other => panic!("{source}: {other:?}"),
        }
    }
}

#[test]
fn what_cannot_be_right_is_refused_with_a_place() {
    let deep = |n: usize| format!("{}true{}", "[".repeat(n), "]".repeat(n));
    for (source, why) in [
        ("", "line 1"),
        ("event.", "line 1"),
        ("event ==\n == 1", "line 2"),
        ("'unterminated", "line 1"),
        ("evnt.a == 1", "\"evnt\" (line 1, column 1)"),
        ("event.a == 1 &&\n  foo == 1", "\"foo\" (line 2, column 3)"),
        ("event.all(x, y == 1)", "\"y\""),
        ("event.a.frob() == 1", "no function \"frob\""),
        ("timestamp(event.event_time) > 1", "no function \"timestamp\""),
        ("contains(event.a, 'x')", "wrong arguments"),
        ("event.a.startsWith('x', 'y')", "wrong arguments"),
        ("event.a.matches(event.b)", "constant"),
        ("event.a.matches('(')", "regex"),
        (r"event.a.matches('(\\w{100}){100}')", "regex"),
        ("b'bytes' == event.a", "bytes"),
        ("Thing{a: 1} == event", "Thing"),
        ("18446744073709551615u == event.a", "too large"),
        ("has(event)", "has"),
        ("event.a.all(1, true)", "line 1"),
        ("event.a.exists(x, x.exists(y, y.exists(z, true)))", "nested"),
        ("event.?a == 1", "unsupported"),
        ("event.a == 1 event.b", "line 1"),
        (&deep(40), "recursion"),
        (&format!("1{}", " + 1".repeat(120)), "200 nodes"),
        (&format!("event{}", ".a".repeat(1000)), "1000 words"),
        (&format!("event.a == '{}'", "x".repeat(2048)), "2048 bytes"),
        (&format!("{}true", "!-".repeat(800)), "1000 words"),
        (&format!("event.a{} == 1", "[0]".repeat(500)), "1000 words"),
    ] {
        match Filter::compile(source) {
            Err(e) => assert!(e.message.contains(why), "{source}: {e}"),
            Ok(_) => panic!("{source} was taken"),
        }
    }
    assert!(Filter::compile(&deep(30)).is_ok());
    assert!(Filter::compile(&format!("{}true{}", "(".repeat(400), ")".repeat(400))).is_ok());
    assert!(Filter::compile("event.a.filter(x, x > 1).map(x, x + 1).exists(x, x > 3)").is_ok(), "a chain");
}

#[test]
fn the_deepest_expressions_fit_a_small_stack() {
    let run = || {
        for source in [
            format!("true{}", " ? true : true".repeat(140)),
            format!("event{}", ".a".repeat(190)),
            format!("event{}.a(1)", ".a".repeat(490)),
            format!("event{}{{}}", ".a".repeat(490)),
            format!("true{}", " ? true : true".repeat(240)),
            format!("{}1{}", "[".repeat(32), "]".repeat(32)),
            format!("1{}", " + 1".repeat(99)),
            format!("1{}", " == 1".repeat(99)),
        ] {
            let _ = Filter::compile(&source).map(|it| it.matches(&Subject::parse(b"{}")));
        }
        Subject::parse("[".repeat(5000).as_bytes());
        Subject::parse(format!("{}{}", "[".repeat(128), "]".repeat(128)).as_bytes());
    };
    // Half of what threads have here and in the services.
    std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn an_evaluation_costs_a_bounded_number_of_steps() {
    let list = (0..1000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let body = format!(r#"{{"list": [{list}], "text": "{}"}}"#, "a".repeat(1 << 20));
    let subject = Subject::parse(body.as_bytes());
    for source in [
        "event.list.all(a, event.list.exists(b, a + b < 0 || true && b >= 0 && a == b))",
        "event.list.map(a, event.text + event.text).size() > 0 || true",
        "event.list.all(a, event.list.map(b, a * b).size() > 0) || true",
        "event.list.all(a, event.text.contains('b') || a >= 0)",
        "event.text.matches('(a|b)*c') || true",
        "!event.list.exists(a, event.list == event.list && false)",
    ] {
        let verdict = Filter::compile(source).unwrap().verdict(&subject);
        assert_eq!(
            verdict,
            Err(NotTrue::Error("it takes too many steps on this event".to_owned())),
            "{source}"
        );
    }
    assert!(Filter::compile("event.list.exists(a, a * 2 == 1998)").unwrap().matches(&subject));
}

#[test]
fn long_texts_are_paid_for_by_whatever_reads_them() {
    let list = vec!["0"; 15_000].join(",");
    let text = "a".repeat(1 << 20);
    let body =
        format!(r#"{{"l": [{list}], "a": "{text}", "b": "{text}", "m": {{"{text}": {{"{text}": 1}}}}}}"#);
    let subject = Subject::parse(body.as_bytes());
    for once in [
        "event.a.startsWith(event.b)",
        "event.a.endsWith(event.b)",
        "event.a < event.b",
        "event.a <= event.b",
        "event.a > event.b",
        "event.a >= event.b",
        "event.a == event.b",
        "event.a in event.m",
        "event.m[event.a] == 1",
        "{event.a: 1}[event.b] == 1",
        "event.m == {event.b: {event.b: 1}}",
    ] {
        let source = format!("!event.l.exists(i, ({once}) && false)");
        let verdict = Filter::compile(&source).unwrap().verdict(&subject);
        assert!(
            matches!(&verdict, Err(NotTrue::Error(why)) if why.contains("too many steps")),
            "{source}: {verdict:?}"
        );
    }
    let name = "n".repeat(1_800);
    let source = format!("!event.l.exists(i, has(event.m.{name}) && false)");
    let verdict = Filter::compile(&source).unwrap().verdict(&subject);
    assert_eq!(verdict, Err(NotTrue::Error("it takes too many steps on this event".to_owned())));
    // What is short on one side is cheap.
    let source = "event.l.all(i, event.a.startsWith('aa') && event.a < 'b')";
    let short = Subject::parse(body.replace(&"0,".repeat(10_000), "").as_bytes());
    assert_eq!(Filter::compile(source).unwrap().verdict(&short), Ok(()));
}

#[test]
fn a_regex_is_paid_for_by_how_many_ways_it_can_go_on() {
    let mut bits = 1_u64;
    let mut bit = || {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        if bits & 1 == 0 { '0' } else { '1' }
    };
    let long: String = (0..99_000).map(|_| bit()).collect();
    let subject = Subject::parse(format!(r#"{{"t": "{long}", "s": "{}"}}"#, &long[..10_000]).as_bytes());
    for pattern in ["1[01]{1900}[^01]", "1[01]{100}[^01]", r"1[01]{400}[^01]|\p{L}"] {
        let verdict = Filter::compile(&format!("event.t.matches(r'{pattern}')")).unwrap().verdict(&subject);
        assert_eq!(
            verdict,
            Err(NotTrue::Error("it takes too many steps on this event".to_owned())),
            "{pattern}"
        );
    }
    for pattern in [r"^\w+$", r"(?i)\bone\b|1\w", "[01]{9}", "[0-9а-я]"] {
        let source = format!("event.s.matches(r'{pattern}')");
        assert_eq!(Filter::compile(&source).unwrap().verdict(&subject), Ok(()), "{pattern}");
    }
}

#[test]
fn a_body_that_is_no_json_matches_nothing() {
    for body in ["", "{", "{\"a\":}", "[1,]", "{} x", "tru", "\"a", "\"\\u12\"", "{\"a\" 1}", "1.2.3", "-"] {
        let subject = Subject::parse(body.as_bytes());
        assert!(!Filter::compile("has(event.a) || event == {}").unwrap().matches(&subject), "{body}");
    }
    let subject = Subject::parse(br#" {"a": [], "b": {}, "c": "\"\\\/\b\f\n\r\t\u00e9", "a": 1e2} "#);
    let source = "event.a == 100 && event.b == {} && event.c == \"\\\"\\\\/\\b\\f\\n\\r\\té\"";
    assert_eq!(Filter::compile(source).unwrap().verdict(&subject), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_compiler_panic(source in ".{0,60}") {
        let _ = Filter::compile(&source);
    }

    #[test]
    fn no_words_make_compiler_or_evaluation_panic(words in prop::collection::vec(prop::sample::select(vec![
        "event", ".", "event_data", "tags", "[", "]", "(", ")", "{", "}", "1", "-", "2.5", "'é'", "\"", "\\", "&&",
        "||", "!", "?", ":", ",", "==", "<", "in", "has(", ".all(", ".exists(x,", ".map(x,", "x", "size(", "+", "*",
        "/", "%", ".matches('a+')", "null", "true", "u", "0x8000000000000000", "9223372036854775807", "r'", "'''",
        "b'", "//", "\n", "`", "\u{1F600}", "\u{0}", ".filter(", ".exists_one(x,", "1e999", "{'a':1}", "\\u", "\\x4",
    ]), 0..30), spaced in any::<bool>()) {
        let source = words.join(if spaced { " " } else { "" });
        if let Ok(filter) = Filter::compile(&source) {
            let _ = filter.verdict(&Subject::parse(BODY.as_bytes()));
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(json in prop::collection::vec(any::<u8>(), 0..80), cut in 0..BODY.len()) {
        Subject::parse(&json);
        Subject::parse(&BODY.as_bytes()[..cut]);
        Subject::parse(&BODY.as_bytes()[cut..]);
    }
}
