//! Requests in an open loop, over connections that are kept and some over new
//! ones: the client of a drill of the proxy.
//!
//! The clock alone decides when a request begins. Where every kept connection is
//! busy it gets one of its own, so that a slow answer never holds up the next
//! request; nor does this client send anything twice, whatever becomes of it.

use std::collections::VecDeque;
use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::arrivals::{PORTS, Shard, in_open_loop};
use super::exchange::{Failure, identify, open};
use super::records::{Attempt, EndpointId, Outcome, lock, to_us};
use super::wire::LARGEST_ANSWER;
use super::worker::{Context, Gates};
use crate::drill::ids;

/// One request in so many has a new connection, whatever is free.
const NEW_ONE_IN: u64 = 20;

/// One process's part of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Which requests.
    pub shard: Shard,
    /// How many connections it keeps.
    pub kept: u32,
}

/// Splits `kept` connections over the processes that have `shards`.
pub fn shares(shards: &[Shard], kept: u32) -> Vec<Share> {
    let part = |shard: &Shard| Share {
        shard: *shard,
        kept: kept / shard.of + u32::from(shard.index < kept % shard.of),
    };
    shards.iter().map(part).collect()
}

type Sender = SendRequest<Empty<Bytes>>;

/// The connections that are kept.
struct Kept {
    most: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one that has been idle longest is in front, and taken first: so none
    /// idles for long.
    idle: VecDeque<Sender>,
    /// Idle or not.
    open: u32,
}

/// Where a request goes.
enum Way {
    Kept(Sender),
    /// A new connection, kept afterwards.
    ToKeep,
    /// A new connection for this request alone.
    Alone,
}

impl Kept {
    fn way(&self, number: u64) -> (Way, bool) {
        if number.is_multiple_of(NEW_ONE_IN) {
            return (Way::Alone, false);
        }
        let mut state = lock(&self.state);
        while let Some(sender) = state.idle.pop_front() {
            if sender.is_ready() {
                return (Way::Kept(sender), false);
            }
            // The other side has closed it meanwhile, as it may between requests.
            state.open -= 1;
        }
        if state.open < self.most {
            state.open += 1;
            return (Way::ToKeep, false);
        }
        (Way::Alone, true)
    }

    /// Takes a connection back, or with `None` its place.
    fn give_back(&self, sender: Option<Sender>) {
        let mut state = lock(&self.state);
        match sender {
            Some(sender) => state.idle.push_back(sender),
            None => state.open -= 1,
        }
    }
}

/// Sends this process's requests when told to measure, until told to stop, and
/// returns once each has its outcome.
pub async fn run(context: Arc<Context>, share: Share, gates: Gates) {
    let kept = Arc::new(Kept {
        most: share.kept,
        state: Mutex::default(),
    });
    let begin = |number, due| {
        let (context, kept) = (Arc::clone(&context), Arc::clone(&kept));
        async move { request(&context, &kept, number, due).await }
    };
    in_open_loop(&context, share.shard, gates, begin).await;
}

/// How far a request came.
#[derive(Default)]
struct Progress {
    asked: bool,
    endpoint: Option<EndpointId>,
}

async fn request(context: &Context, kept: &Kept, number: u64, due: Instant) {
    let begin = Instant::now();
    let id = u32::try_from(number).unwrap_or(u32::MAX);
    let (way, overflow) = kept.way(number);
    if overflow {
        context.recorder.count(|counts| counts.overflow += 1);
    }
    let keeps = !matches!(way, Way::Alone);
    let mut progress = Progress::default();
    let trying = async {
        let mut sender = match way {
            Way::Kept(sender) => sender,
            Way::ToKeep | Way::Alone => connect(context, number).await?,
        };
        progress.asked = true;
        let answered = ask(context, &mut sender, id, keeps, &mut progress.endpoint).await;
        let end = Instant::now();
        // Failed or not, what the connection is good for it says itself.
        let sender = (keeps && answered.is_ok()).then_some(sender);
        Ok::<_, Failure>((answered?, end, sender))
    };
    let (outcome, end, sender) = match timeout(context.give_up, trying).await {
        Ok(Ok((outcome, end, sender))) => (outcome, end, sender),
        Ok(Err(failure)) => {
            let outcome = failure.outcome().unwrap_or_else(|| {
                let local = || format!("cannot send a request: {failure:?}");
                context.recorder.local_error(local);
                Outcome::Unreachable
            });
            (outcome, Instant::now(), None)
        }
        Err(_) => (Outcome::TimedOut, Instant::now(), None),
    };
    let late = end - begin > context.patience;
    let outcome = match outcome {
        Outcome::Answered if late => Outcome::Delayed,
        outcome => outcome,
    };
    match (outcome, progress.endpoint) {
        (Outcome::Answered | Outcome::Delayed, Some(endpoint)) => {
            context.recorder.answered(endpoint);
        }
        _ if progress.asked => context.recorder.count(|counts| counts.unanswered += 1),
        _ => {}
    }
    context.recorder.attempt(Attempt {
        id,
        start_us: context.recorder.clock().us(due.into_std()),
        latency_us: u32::try_from(to_us(end - due)).unwrap_or(u32::MAX),
        endpoint: progress.endpoint,
        outcome,
    });
    if keeps {
        let ready = match sender {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        kept.give_back(ready);
    }
}

async fn connect(context: &Context, number: u64) -> Result<Sender, Failure> {
    let source = context.source(number, &PORTS);
    let stream = open(source, context.target(number)).await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(failure)?;
    // Its end shows at the sender.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Sends request `id` and reads its answer. `endpoint` becomes the one that gave
/// it, as far as it says.
async fn ask(
    context: &Context,
    sender: &mut Sender,
    id: u32,
    keeps: bool,
    endpoint: &mut Option<EndpointId>,
) -> Result<Outcome, Failure> {
    let mut request = Request::builder().uri(ids::path(id)).header(HOST, "drill");
    if !keeps {
        request = request.header(CONNECTION, "close");
    }
    let request = request.body(Empty::new()).map_err(|_| Failure::Malformed)?;
    let response = sender.send_request(request).await.map_err(failure)?;
    *endpoint = named(&response, &context.endpoints);
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect();
    let body = body.await.map_err(|error| match error.downcast() {
        Ok(error) => failure(*error),
        Err(_) => Failure::Malformed,
    })?;
    if status.is_server_error() {
        return Ok(Outcome::Error);
    }
    let name = String::from_utf8(body.to_bytes().into()).unwrap_or_default();
    let answered = identify(&name, &context.endpoints)?;
    if status != StatusCode::OK || *endpoint != Some(answered) {
        return Err(Failure::Malformed);
    }
    Ok(Outcome::Answered)
}

fn named<B>(response: &Response<B>, endpoints: &[String]) -> Option<EndpointId> {
    let name = response.headers().get("x-endpoint")?.to_str().ok()?;
    identify(name, endpoints).ok()
}

fn failure(error: hyper::Error) -> Failure {
    if error.is_parse() {
        return Failure::Malformed;
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            return Failure::Network(cause.kind().into());
        }
        source = cause.source();
    }
    Failure::Closed
}

#[cfg(test)]
mod tests {
    use super::super::arrivals;
    use super::*;

    #[test]
    fn kept_connections_are_split_without_loss() {
        let shares = shares(&arrivals::shards(2000, 3), 200);
        let kept: Vec<u32> = shares.iter().map(|share| share.kept).collect();
        assert_eq!(kept, [67, 67, 66]);
    }

    #[test]
    fn some_requests_have_a_new_connection_and_the_rest_no_more_than_allowed() {
        let kept = Kept {
            most: 2,
            state: Mutex::default(),
        };
        assert!(matches!(kept.way(0), (Way::Alone, false)));
        assert!(matches!(kept.way(1), (Way::ToKeep, false)));
        assert!(matches!(kept.way(2), (Way::ToKeep, false)));
        assert!(matches!(kept.way(3), (Way::Alone, true)));
        kept.give_back(None);
        assert!(matches!(kept.way(4), (Way::ToKeep, false)));
    }
}
