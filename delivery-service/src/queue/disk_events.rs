//! Event ids that the embedded queue's lanes have had, for as long as publishing one again makes a duplicate: where they
//! are noted, and that they are forgotten, a bounded number at a time, beside other work.

use std::time::Duration;

use bytes::Bytes;
use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};

use super::{
    QueueError,
    disk_group::{Group, TRIM},
    disk_row::Row,
    disk_tables::{first16, id_and_time, time_of},
};

/// Event ids that are forgotten together.
const PACKED: usize = 64;

impl Group<'_, '_> {
    /// Notes a lane's event, unless there is a delivery of it.
    pub(super) fn note_event(
        &mut self,
        lane: WebhookId,
        row: &Row,
        event_id: &str,
        id: DeliveryId,
    ) -> Result<Option<DeliveryId>, QueueError> {
        let (now, window) = (self.now, self.limits.dedupe_window);
        let event = event_key(lane, event_id);
        // Most lanes have events so seldom that there is none to be looked for.
        let is_forgotten = row.is_forgotten(window, now);
        let known = match is_forgotten {
            true => None,
            false => self.tables.events.read(&event, |known| (first16(known), time_of(known)))?,
        };
        if let Some((known, until)) = known
            && until > now
        {
            return Ok(Some(DeliveryId::from_bytes(known)));
        }
        let value = id_and_time(id, now + window);
        if is_forgotten || known.is_some() {
            self.tables.events.put(event, value);
        } else {
            self.tables.events.add(event, value);
        }
        Ok(None)
    }

    /// Notes when event ids that came since the last flush are to be forgotten, and forgets others.
    pub(super) fn expire_events(&mut self) -> Result<(), QueueError> {
        let mut events: Vec<_> = self.tables.events.keys().collect();
        if events.is_empty() {
            return Ok(());
        }
        events.sort_unstable();
        let mut expiry = self.now + self.limits.dedupe_window;
        for event in &events {
            // Later when the clock has stepped back since: what is listed earlier would not be over then, and be kept
            // with nothing that names it.
            let until = self.tables.events.read(event, time_of)?;
            expiry = expiry.max(until.unwrap_or(expiry));
        }
        let (first, last) = (expiry_key(expiry, 0), expiry_key(expiry, u64::MAX));
        let last = self.tables.expiries.range(&first, &last)?.last().transpose()?;
        let next = last.map_or(0, |(key, _)| u128::from_be_bytes(key) as u64 + 1);
        for (events, n) in events.chunks(PACKED).zip(next..) {
            self.tables.expiries.put(expiry_key(expiry, n), pack(events));
        }
        let count = events.len();
        self.forget_events(2 * count + TRIM)
    }

    /// Forgets event ids whose time is over, about `most` at most.
    pub(super) fn forget_events(&mut self, most: usize) -> Result<(), QueueError> {
        let mut count = 0;
        while count < most {
            let first = self.tables.expiries.first(&[0; 16], &[255; 16])?;
            let Some((key, events)) = first.map(|(key, events)| (key, unpack(&events))) else { break };
            if key >= expiry_key(self.now + Duration::from_millis(1), 0) {
                break;
            }
            let noted = events.len();
            for event in events {
                // Unless it was noted anew since.
                let known = self.tables.events.read(&event, time_of)?;
                if known.is_some_and(|expiry| expiry <= self.now) {
                    self.tables.events.remove(event);
                }
            }
            self.tables.expiries.remove(&key)?;
            count += noted.max(1);
        }
        Ok(())
    }
}

fn event_key(lane: WebhookId, event_id: &str) -> Bytes {
    [&lane.bytes(), event_id.as_bytes()].concat().into()
}

fn expiry_key(expiry: Time, n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&expiry.0.to_be_bytes());
    key[8..].copy_from_slice(&n.to_be_bytes());
    key
}

/// A value of `EXPIRIES`: keys of events, each after its length.
fn pack(events: &[&Bytes]) -> Bytes {
    let mut packed = Vec::with_capacity(events.iter().map(|event| 4 + event.len()).sum());
    for event in events {
        packed.extend_from_slice(&(event.len() as u32).to_be_bytes());
        packed.extend_from_slice(event);
    }
    packed.into()
}

fn unpack(mut packed: &[u8]) -> Vec<Bytes> {
    let mut events = Vec::new();
    while let Some((size, rest)) = packed.split_first_chunk()
        && let Some((event, rest)) = rest.split_at_checked(u32::from_be_bytes(*size) as usize)
    {
        events.push(Bytes::copy_from_slice(event));
        packed = rest;
    }
    events
}
