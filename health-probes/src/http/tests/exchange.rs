//! One exchange over an in-memory pipe, in virtual time.

use proptest::prelude::*;
use tokio::io::DuplexStream;
use tokio::time::{Instant, sleep, timeout};

use super::*;

const LIMIT: Duration = Duration::from_millis(500);

/// Runs an exchange with `server`, under a timeout as the scheduler sets one.
async fn against<S, R>(probe: &HttpProbe, server: S) -> Result<(), Failure>
where
    S: FnOnce(DuplexStream) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    let (near, far) = tokio::io::duplex(4096);
    let server = tokio::spawn(server(far));
    let begin = Instant::now();
    let exchange = exchange(near, probe.request().unwrap(), probe);
    let result = timeout(LIMIT, exchange).await;
    assert!(begin.elapsed() <= LIMIT, "{:?}", begin.elapsed());
    server.abort();
    result.unwrap_or(Err(Failure::Timeout))
}

/// Runs an exchange with a server that writes `answer` and hangs up.
async fn answered(probe: &HttpProbe, answer: impl Into<Vec<u8>>) -> Result<(), Failure> {
    let answer = answer.into();
    against(probe, |mut io| async move {
        read_request(&mut io).await;
        // It fails when the probe has seen enough.
        let _ = io.write_all(&answer).await;
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn the_request_is_what_it_should_be() {
    let (sender, request) = tokio::sync::oneshot::channel();
    let result = against(&plain(), |mut io| async move {
        sender.send(read_request(&mut io).await).unwrap();
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        io.write_all(answer).await.unwrap();
    })
    .await;
    assert_eq!(result, Ok(()));
    let request = request.await.unwrap();
    let lines: Vec<_> = request.lines().collect();
    assert_eq!(lines[0], "GET /health HTTP/1.1");
    for header in [
        "host: web",
        "connection: close",
        concat!("user-agent: director-health/", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(lines.contains(&header), "{header:?} is not in {lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn good_answers() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n\r\nall is ok here",
        "HTTP/1.0 200 OK\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 2\r\n\r\nok",
    ] {
        assert_eq!(answered(&plain(), answer).await, Ok(()), "{answer:?}");
        assert_eq!(answered(&wants("ok"), answer).await, Ok(()), "{answer:?}");
        assert_eq!(answered(&wants(""), answer).await, Ok(()), "{answer:?}");
        assert_eq!(
            answered(&wants("OK"), answer).await,
            Err(Failure::BodyMismatch),
            "{answer:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_outside_the_range_is_named() {
    let narrow = HttpProbe {
        status: 200..=200,
        ..wants("ok")
    };
    for (probe, status) in [(plain(), 503), (plain(), 404), (narrow, 302)] {
        // The status is enough: this body never comes.
        let answer = format!("HTTP/1.1 {status} Text\r\ncontent-length: 1000\r\n\r\n");
        let result = answered(&probe, answer).await;
        assert_eq!(result, Err(Failure::Status(status)));
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_break_the_rules() {
    for answer in [
        "",
        "HTTP/1.1 200",
        "SSH-2.0-OpenSSH_9.2p1\r\n",
        "HTTP/0.9 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok",
    ] {
        let result = answered(&plain(), answer).await;
        assert!(is_protocol(&result), "{answer:?}: {result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_cut_off_says_so() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok",
    ] {
        let text = answered(&plain(), answer).await.unwrap_err().to_string();
        assert_eq!(
            text, "protocol error: closed before the answer was whole",
            "{answer:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_first_speaks_another_protocol() {
    let (near, mut far) = tokio::io::duplex(4096);
    far.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
    let probe = plain();
    let result = exchange(near, probe.request().unwrap(), &probe).await;
    assert!(is_protocol(&result), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn endless_headers_are_cut_off() {
    for (head, piece) in [
        ("HTTP/1.1 200 OK\r\n", "x-filler: 0123456789\r\n"),
        ("HTTP/1.1 200 OK\r\nx-filler: ", "0123456789"),
        ("HTTP/1.1 200 ", "0123456789"),
    ] {
        let result = against(&plain(), move |mut io| async move {
            read_request(&mut io).await;
            io.write_all(head.as_bytes()).await.unwrap();
            write_for_ever(&mut io, piece).await;
        })
        .await;
        assert!(is_protocol(&result), "{head:?}: {result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_head_of_up_to_64_kib_is_taken() {
    for (length, taken) in [(60 * 1024, true), (68 * 1024, false)] {
        let filler = ".".repeat(length);
        let answer = format!("HTTP/1.1 204 No Content\r\nx-filler: {filler}\r\n\r\n");
        let result = answered(&plain(), answer).await;
        assert_eq!(result.is_ok(), taken, "{length}: {result:?}");
        assert_eq!(is_protocol(&result), !taken, "{length}: {result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endless_body_is_read_to_the_limit() {
    let endless = |mut io: DuplexStream| async move {
        read_request(&mut io).await;
        io.write_all(b"HTTP/1.1 200 OK\r\n\r\nok").await.unwrap();
        write_for_ever(&mut io, "0123456789").await;
    };
    assert_eq!(against(&plain(), endless).await, Ok(()));
    assert_eq!(against(&wants("ok"), endless).await, Ok(()));
    let result = against(&wants("no"), endless).await;
    assert_eq!(result, Err(Failure::BodyMismatch));
}

#[tokio::test(start_paused = true)]
async fn only_the_first_64_kib_of_a_body_count() {
    for (before, expected) in [
        (BODY_LIMIT - 2, Ok(())),
        (BODY_LIMIT - 1, Err(Failure::BodyMismatch)),
    ] {
        let body = format!("{}ok", ".".repeat(before));
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        assert_eq!(answered(&wants("ok"), answer).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_drip_times_out() {
    for (head, piece) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nok", "."),
        ("HTTP/1.1 200 OK\r\n", "x-drop: 1\r\n"),
        ("", "HTTP/1.1 103 Early Hints\r\n\r\n"),
    ] {
        let result = against(&plain(), move |mut io| async move {
            read_request(&mut io).await;
            io.write_all(head.as_bytes()).await.unwrap();
            while io.write_all(piece.as_bytes()).await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        assert_eq!(result, Err(Failure::Timeout), "{head:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_times_out() {
    let result = against(&plain(), |mut io| async move {
        read_request(&mut io).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(result, Err(Failure::Timeout));
}

#[test]
fn a_request_that_cannot_be_made_is_our_own_fault() {
    for probe in [
        HttpProbe {
            path: "health".into(),
            ..plain()
        },
        HttpProbe {
            path: "/two words".into(),
            ..plain()
        },
        HttpProbe {
            host: "web\r\nx-smuggled: 1".into(),
            ..plain()
        },
    ] {
        let failure = probe.request().unwrap_err();
        assert!(matches!(failure, Failure::Local(_)), "{failure:?}");
    }
}

/// Runs an exchange with a server that writes `answer` piece by piece and then
/// hangs up or falls silent.
fn judged(answer: &[u8], piece: usize, hang_up: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let answer = answer.to_vec();
    runtime.block_on(against(&wants("ok"), |mut io| async move {
        read_request(&mut io).await;
        for piece in answer.chunks(piece) {
            if io.write_all(piece).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
        if !hang_up {
            std::future::pending::<()>().await;
        }
    }))
}

/// Whether it is what an endpoint can bring about once it has accepted, and
/// nothing that would be laid at our own door.
fn is_the_endpoints(result: &Result<(), Failure>) -> bool {
    !matches!(
        result,
        Err(Failure::Local(_) | Failure::Refused | Failure::Unreachable)
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]

    #[test]
    fn any_bytes_are_judged_in_time(
        answer in proptest::collection::vec(any::<u8>(), 0..2000),
        piece in 1usize..500,
        hang_up: bool,
    ) {
        let result = judged(&answer, piece, hang_up);
        prop_assert!(result.is_err() && is_the_endpoints(&result), "{result:?}");
    }

    /// Nearly right answers get further than noise.
    #[test]
    fn any_damage_is_judged_in_time(
        chunked: bool,
        damage in proptest::collection::vec((0usize..80, any::<u8>()), 0..6),
        keep in 0usize..120,
        piece in 1usize..100,
        hang_up: bool,
    ) {
        let mut answer = if chunked {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec()
        } else {
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()
        };
        let whole = answer.len();
        answer.truncate(keep);
        for (at, byte) in &damage {
            if let Some(place) = answer.get_mut(*at) {
                *place = *byte;
            }
        }
        let result = judged(&answer, piece, hang_up);
        prop_assert!(is_the_endpoints(&result), "{result:?}");
        if damage.is_empty() {
            prop_assert_eq!(result.is_ok(), keep >= whole);
        }
    }
}
