//! EventService: events come in. Every request is checked whole, every event answered on its own.

use std::{borrow::Cow, future::ready, pin::Pin};

use common::{
    clock::Clock,
    event::Event,
    intake,
    metrics::Counters,
    service::MAX_REQUEST,
    status::{self, Violations},
};
use futures_util::{Stream, StreamExt, stream};
use proto::v1::{
    self, PublishEventRequest, PublishEventResponse, PublishEventsRequest, PublishEventsResponse,
    PublishResult, StreamEventsRequest, StreamEventsResponse,
    event_service_server::{EventService, EventServiceServer},
    publish_result::Outcome,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::from_queue;
use crate::{
    intake::{Accepted, Intake, NotAccepted},
    metrics::Published,
};

/// Events in one PublishEvents.
const MOST_EVENTS: usize = 1_000;
/// Events of a stream that are stored together, and such batches under way at once: what a stream
/// sends beyond that waits in its sender, by HTTP/2's flow control.
const STREAM_BATCH: usize = 256;
const STREAM_DEPTH: usize = 2;

#[derive(Clone)]
pub struct Events {
    intake: Intake,
    clock: Clock,
    /// By `Published`.
    published: Counters<4>,
    stop: CancellationToken,
}

impl Events {
    /// Streams end when `stop` is cancelled: what was read is answered, the rest is refused.
    pub fn new(intake: Intake, clock: Clock, published: Counters<4>, stop: CancellationToken) -> Self {
        Self { intake, clock, published, stop }
    }

    pub fn service(self) -> EventServiceServer<Self> {
        EventServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// Checks and accepts events; one that is refused does not touch the others.
    async fn publish(
        &self,
        events: Vec<(Option<v1::Event>, Cow<'static, str>)>,
        traceparent: Option<&str>,
    ) -> Vec<Result<PublishEventResponse, Status>> {
        let checked: Vec<_> = events.into_iter().map(|(event, field)| self.check(event, &field)).collect();
        let mut refused = Vec::with_capacity(checked.len());
        let mut good = Vec::with_capacity(checked.len());
        for result in checked {
            match result {
                Ok(event) => {
                    good.push(event);
                    refused.push(None);
                }
                Err(status) => refused.push(Some(status)),
            }
        }
        let mut accepted = self.intake.accept(good, traceparent).await.into_iter();
        let mut counts = [0; 4];
        let mut answer = |refused: Option<Status>| {
            let (told, answer) = match refused {
                Some(status) => (Published::Invalid, Err(status)),
                None => match accepted.next() {
                    Some(Ok(accepted)) if accepted.duplicate => {
                        (Published::Duplicate, Ok(response(accepted)))
                    }
                    Some(Ok(accepted)) => (Published::Accepted, Ok(response(accepted))),
                    Some(Err(why)) => (Published::Unavailable, Err(not_accepted(why))),
                    None => (Published::Unavailable, Err(status::internal("an event was not answered"))),
                },
            };
            counts[told as usize] += 1;
            answer
        };
        let answers = refused.into_iter().map(&mut answer).collect();
        for (told, count) in counts.into_iter().enumerate() {
            self.published.add(told, count);
        }
        answers
    }

    fn check(&self, event: Option<v1::Event>, field: &str) -> Result<Event, Status> {
        let Some(event) = event else { return Err(status::invalid(field, "required")) };
        let mut violations = Violations::default();
        let event = intake::event(event, self.clock.now(), field, &mut violations);
        violations.check()?;
        event.ok_or_else(|| status::internal("an event without violations was refused"))
    }
}

#[tonic::async_trait]
impl EventService for Events {
    async fn publish_event(
        &self,
        request: Request<PublishEventRequest>,
    ) -> Result<Response<PublishEventResponse>, Status> {
        let traceparent = traceparent(request.metadata());
        let event = request.into_inner().event;
        let mut answers = self.publish(vec![(event, "event".into())], traceparent.as_deref()).await;
        answers.pop().unwrap_or_else(|| Err(status::internal("no answer"))).map(Response::new)
    }

    async fn publish_events(
        &self,
        request: Request<PublishEventsRequest>,
    ) -> Result<Response<PublishEventsResponse>, Status> {
        let traceparent = traceparent(request.metadata());
        let events = request.into_inner().events;
        if events.len() > MOST_EVENTS {
            let count = events.len();
            return Err(status::invalid(
                "events",
                format!("{count} events: at most {MOST_EVENTS} in one call"),
            ));
        }
        let named =
            events.into_iter().enumerate().map(|(n, event)| (Some(event), format!("events[{n}]").into()));
        let answers = self.publish(named.collect(), traceparent.as_deref()).await;
        Ok(Response::new(PublishEventsResponse { results: answers.into_iter().map(result).collect() }))
    }

    type StreamEventsStream = Pin<Box<dyn Stream<Item = Result<StreamEventsResponse, Status>> + Send>>;

    async fn stream_events(
        &self,
        request: Request<Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let traceparent = traceparent(request.metadata());
        let events = self.clone();
        let stopping = self.stop.clone();
        let stopped = stream::once(async { Err(super::stopping()) });
        // Behind a message that cannot be decoded its rest would be read as messages.
        let mut broken = false;
        let sent = request.into_inner().take_while(move |message| {
            let goes_on = !broken;
            broken |= message.is_err();
            ready(goes_on)
        });
        let sent = sent.take_until(self.stop.clone().cancelled_owned());
        let ends = stopped.filter(move |_| ready(stopping.is_cancelled()));
        let batches = sent.chain(ends).ready_chunks(STREAM_BATCH).map(move |batch| {
            let (this, traceparent) = (events.clone(), traceparent.clone());
            async move { this.batch(batch, traceparent.as_deref()).await }
        });
        let answers = batches.buffered(STREAM_DEPTH).flat_map(stream::iter);
        let numbered = answers.enumerate().map(|(n, answer)| {
            let result = answer?;
            Ok(StreamEventsResponse { sequence: n as u64 + 1, result: Some(result) })
        });
        Ok(Response::new(Box::pin(numbered)))
    }
}

impl Events {
    /// A stream's batch. A break of the stream is the last that it answers.
    async fn batch(
        &self,
        batch: Vec<Result<StreamEventsRequest, Status>>,
        traceparent: Option<&str>,
    ) -> Vec<Result<PublishResult, Status>> {
        let mut events = Vec::with_capacity(batch.len());
        let mut broken = None;
        for message in batch {
            match message {
                Ok(request) => events.push((request.event, "event".into())),
                Err(status) => broken = Some(Err(status)),
            }
        }
        let answers = self.publish(events, traceparent).await;
        answers.into_iter().map(|answer| Ok(result(answer))).chain(broken).collect()
    }
}

fn result(answer: Result<PublishEventResponse, Status>) -> PublishResult {
    let outcome = match answer {
        Ok(accepted) => Outcome::Accepted(accepted),
        Err(status) => Outcome::Refused(status::to_proto(&status)),
    };
    PublishResult { outcome: Some(outcome) }
}

fn response(accepted: Accepted) -> PublishEventResponse {
    PublishEventResponse {
        event_id: accepted.event_id,
        delivery_ids: accepted.delivery_ids.iter().map(ToString::to_string).collect(),
        duplicate: accepted.duplicate,
    }
}

fn not_accepted(why: NotAccepted) -> Status {
    match why {
        NotAccepted::NoRoutes => super::routes_unknown(),
        NotAccepted::Store(error) => from_queue(error),
    }
}

/// The publisher's trace context, if it is one by W3C Trace Context.
fn traceparent(metadata: &MetadataMap) -> Option<String> {
    let text = metadata.get("traceparent")?.to_str().ok()?;
    let parts: Vec<_> = text.split('-').collect();
    let hex = |part: &&str, length| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let well_formed =
        parts.len() == 4 && parts.iter().zip([2, 32, 16, 2]).all(|(part, length)| hex(part, length));
    let is_zero = |part: &str| part.bytes().all(|b| b == b'0');
    (well_formed && parts[0] != "ff" && !is_zero(parts[1]) && !is_zero(parts[2])).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_is_taken_when_it_is_one() {
        let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let (no_trace, no_parent) = ("0".repeat(32), "0".repeat(16));
        for (text, is_one) in [
            (format!("00-{trace}-{parent}-01"), true),
            (format!("ff-{trace}-{parent}-01"), false),
            (format!("00-{no_trace}-{parent}-01"), false),
            (format!("00-{trace}-{no_parent}-01"), false),
            (format!("00-{trace}-{parent}"), false),
            (format!("00-{}-{parent}-01", trace.to_uppercase()), false),
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert("traceparent", text.parse().unwrap());
            assert_eq!(traceparent(&metadata), is_one.then_some(text));
        }
    }
}
