//! What holds for any head.

use httparse::{EMPTY_HEADER, Request, Status};
use proptest::prelude::*;

use super::*;

/// Parts that heads are made of, and by which they are broken.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "Host: example.org\r\n",
        "Host: ",
        "Content-Length: 5\r\n",
        "Content-Length:",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding",
        "Connection: upgrade\r\n",
        "Upgrade: websocket\r\n",
        "Expect: 100-continue\r\n",
        "A: b\r\n",
        "A:\t\u{fc} \r\n",
        ": ",
        " ",
        "\r\n",
        "\n",
        "\r",
        "\0",
        "chunked",
        ",",
    ]);
    prop_oneof![
        4 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => "[!-~]{1,8}: [ -~]{0,12}\r\n".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ]
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        4 => Just("GET / HTTP/1.1\r\n".to_owned()),
        1 => Just("POST http://example.org/ HTTP/1.0\r\n".to_owned()),
        1 => Just("\r\nOPTIONS * HTTP/1.1\r\n".to_owned()),
        2 => "[A-Z!\"]{1,4} [/!-~]{1,8} HTTP/1[.,][01]\r\n",
        1 => "[ -~\r\n]{0,20}",
    ];
    line.prop_map(String::into_bytes)
}

fn head() -> impl Strategy<Value = Vec<u8>> {
    (line(), prop::collection::vec(part(), 0..6)).prop_map(|(line, parts)| {
        let fields = parts.concat();
        // Mostly with a Host, that more of them pass.
        let host: &[u8] = if fields.len() % 3 == 0 {
            b""
        } else {
            b"Host: example.org\r\n"
        };
        [&line, host, &fields, b"\r\n"].concat()
    })
}

/// What was taken, another reader takes for the same.
fn holds(bytes: &[u8]) {
    let Ok(found) = check(bytes, &LIMITS) else {
        return;
    };
    let head = &bytes[..found.length];
    assert!(head.ends_with(b"\r\n\r\n"));
    let mut fields = [EMPTY_HEADER; 20];
    let mut request = Request::new(&mut fields);
    let length = request.parse(bytes).unwrap();
    assert_eq!(length, Status::Complete(found.length));
    assert_eq!(request.method.unwrap().as_bytes(), found.method);
    assert_eq!(request.path.unwrap().as_bytes(), found.target);
    assert_eq!(request.version, Some(u8::from(found.http11)));
    let named = |name: &str| {
        let fields = request.headers.iter();
        let named = fields.filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value).collect::<Vec<_>>()
    };
    match found.framing {
        Framing::None => assert!(named("content-length").is_empty()),
        Framing::Chunked => assert!(named("content-length").is_empty()),
        Framing::Length(bytes) => {
            let [length] = *named("content-length") else {
                panic!("one Content-Length");
            };
            assert_eq!(str::from_utf8(length).unwrap().parse(), Ok(bytes));
        }
    }
    let is_chunked = found.framing == Framing::Chunked;
    assert_eq!(named("transfer-encoding").len(), usize::from(is_chunked));
    assert!(named("host").len() <= 1);
    // Every line but the first and the empty ones is a field.
    let start = if head.starts_with(b"\r\n") { 2 } else { 0 };
    let lines: Vec<&[u8]> = head[start..].split(|&byte| byte == b'\n').collect();
    assert_eq!(lines.len() - 3, request.headers.len());
    for (line, field) in lines[1..].iter().zip(&*request.headers) {
        let (name, value) = super::super::field(line.strip_suffix(b"\r").unwrap()).unwrap();
        assert_eq!((name, value), (field.name.as_bytes(), field.value));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_is_taken_is_read_alike_by_others(head in head()) {
        holds(&head);
    }

    #[test]
    fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        holds(&bytes);
    }

    #[test]
    fn a_change_of_a_byte_is_read_alike_or_refused(at in 0..200usize, to in any::<u8>()) {
        let mut head = posted("A: b\r\nContent-Length: 5\r\nConnection: close").into_bytes();
        let length = head.len();
        head[at % length] = to;
        holds(&head);
    }

    #[test]
    fn an_end_is_found_however_bytes_come(head in head(), cuts in prop::collection::vec(0..200usize, 0..4)) {
        let whole = head_end(&head, 0);
        if let Some(end) = whole {
            prop_assert!(head_end(&head[..end], 0) == Some(end));
            prop_assert!(head_end(&head[..end - 1], 0).is_none());
        }
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut < head.len()).collect();
        cuts.sort_unstable();
        cuts.push(head.len());
        let mut from = 0;
        let mut found = None;
        for cut in cuts {
            found = found.or_else(|| head_end(&head[..cut], from));
            from = cut;
        }
        prop_assert_eq!(found, whole);
    }
}
