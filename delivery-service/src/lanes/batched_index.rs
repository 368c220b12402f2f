//! How a lane of batches finds what it needs: every change of a delivery takes it out of the indexes,
//! and puts it back as it then is. And the step that puts a batch together. Pure.

use std::{collections::BTreeSet, time::Instant};

use common::ids::DeliveryId;

use super::{
    batched::{Batched, Entry, Formed, Phase},
    batching::{Candidate, Choice, Rules, choose},
    circuit::Moment,
    gate::Pass,
};
use crate::{
    delivery::{Head, Place},
    routes::Order,
};

impl Batched {
    /// Puts the next batch together, if one may go. `ahead`: how many there may be that could go and are
    /// not under way; `room`: whether the process has room for more deliveries. What is answered is to be
    /// stored; then each is `joined`.
    pub fn form(
        &mut self,
        pass: Pass,
        ahead: usize,
        room: bool,
        id: DeliveryId,
        at: Moment,
    ) -> Option<Vec<(DeliveryId, Place)>> {
        self.pass = pass;
        let only_asked = pass == Pass::Asked;
        let look = if only_asked { self.look_asked && self.loose_asked > 0 } else { self.look };
        if !look || !self.may_form(pass, ahead) {
            return None;
        }
        let rules = Rules {
            order: self.order,
            batching: self.batching,
            only_asked,
            more: self.reads.more && self.loose < 2 * self.batching.max_events && self.has_room(room),
            now: at.time,
        };
        let candidates = self.entries.iter().map(|(place, entry)| entry.candidate(*place));
        let choice = if self.loose > 0 { choose(candidates, &rules) } else { Choice::Wait(None) };
        match choice {
            Choice::Go(places) => return Some(self.join(id, &places)),
            Choice::Wait(_) if only_asked => {}
            Choice::Wait(until) => {
                self.look = false;
                self.form_at = until.map(|until| at.now + at.time.until(until));
            }
        }
        self.look_asked = false;
        None
    }

    fn may_form(&self, pass: Pass, ahead: usize) -> bool {
        if self.order != Order::Unordered {
            let next = self.next(pass, &self.ready).or_else(|| self.next(pass, &self.bare));
            return pass != Pass::Nobody && self.busy == 0 && next.is_none();
        }
        let waiting = match pass {
            Pass::Nobody => return false,
            Pass::Asked => self.asked.len(),
            Pass::Any | Pass::Probe => self.ready.len() + self.bare.len(),
        };
        waiting + self.storing < ahead
    }

    fn join(&mut self, id: DeliveryId, places: &[Place]) -> Vec<(DeliveryId, Place)> {
        let last = places.last().copied().unwrap_or_default();
        let alone = self.entries.get(&last).is_some_and(|entry| entry.alone);
        let phase = if alone { Phase::Idle } else { Phase::Storing(places.len()) };
        self.batches.insert(id, Formed { phase, alone, ..Formed::new(last) });
        self.busy += usize::from(!alone);
        self.storing += usize::from(!alone);
        let mut joined = Vec::with_capacity(places.len());
        for place in places {
            let Some(mut entry) = self.detach(*place) else { continue };
            entry.batch = Some(id);
            joined.push((entry.id, *place));
            self.attach(*place, entry);
        }
        // What goes by itself is in no batch for the store.
        if alone { Vec::new() } else { joined }
    }

    /// A delivery as the lane keeps it; its batch is `head`'s.
    pub(super) fn entry(&self, head: &Head, due: Option<Instant>, size: usize) -> Entry {
        let key = match self.order {
            Order::Unordered => None,
            Order::ByUser => Some(&*head.order_key).filter(|key| !key.is_empty()),
            Order::Strict => Some(""),
        };
        let known = |key: &str| self.keys.get_key_value(key).map(|(known, _)| known.clone());
        let kind = if self.batching.one_type { &*head.event_type } else { "" };
        let kind = self.kinds.get_key_value(kind).map_or_else(|| kind.into(), |(known, _)| known.clone());
        Entry {
            id: head.id(),
            kind,
            key: key.map(|key| known(key).unwrap_or_else(|| key.into())),
            size,
            alone: head.xml,
            due,
            prompt: due.is_some() || head.attempt_count > 0,
            asked: head.asked_again,
            batch: head.batch().map(|(id, _)| id),
            waiting: None,
        }
    }

    pub(super) fn attach(&mut self, place: Place, entry: Entry) {
        self.bytes += entry.waiting.as_ref().map_or(0, |waiting| waiting.body.len());
        if let Some(key) = &entry.key {
            self.keys.entry(key.clone()).or_default().insert(place);
        }
        if let Some(due) = entry.due {
            self.later.insert((due, place));
        }
        let batch = entry.batch;
        match batch {
            Some(id) => {
                let formed = self.batches.entry(id).or_insert_with(|| Formed::new(place));
                formed.members.insert(place);
                formed.last = formed.last.max(place);
                formed.waiting += usize::from(entry.due.is_some());
                formed.asked += usize::from(entry.asked);
                formed.bare += usize::from(entry.waiting.is_none());
            }
            None if entry.due.is_none() => {
                let (count, bytes) = self.kinds.entry(entry.kind.clone()).or_default();
                (*count, *bytes) = (*count + 1, *bytes + entry.size + 1);
                self.loose += 1;
                self.loose_asked += usize::from(entry.asked);
            }
            None => {}
        }
        self.entries.insert(place, entry);
        if let Some(id) = batch {
            self.show(id);
        }
    }

    pub(super) fn detach(&mut self, place: Place) -> Option<Entry> {
        if let Some(id) = self.entries.get(&place).and_then(|entry| entry.batch) {
            self.hide(id);
        }
        let entry = self.entries.remove(&place)?;
        self.bytes -= entry.waiting.as_ref().map_or(0, |waiting| waiting.body.len());
        if let Some(key) = &entry.key
            && let Some(places) = self.keys.get_mut(key)
        {
            places.remove(&place);
            if places.is_empty() {
                self.keys.remove(key);
            }
        }
        if let Some(due) = entry.due {
            self.later.remove(&(due, place));
        }
        match entry.batch {
            Some(id) => {
                if let Some(formed) = self.batches.get_mut(&id) {
                    formed.members.remove(&place);
                    formed.waiting -= usize::from(entry.due.is_some());
                    formed.asked -= usize::from(entry.asked);
                    formed.bare -= usize::from(entry.waiting.is_none());
                }
            }
            None if entry.due.is_none() => {
                if let Some((count, bytes)) = self.kinds.get_mut(&entry.kind) {
                    (*count, *bytes) = (*count - 1, *bytes - entry.size - 1);
                    if *count == 0 {
                        self.kinds.remove(&entry.kind);
                    }
                }
                self.loose -= 1;
                self.loose_asked -= usize::from(entry.asked);
            }
            None => {}
        }
        Some(entry)
    }

    /// One is no longer there: its batch goes without it.
    pub(super) fn lose(&mut self, place: Place) {
        self.fresh.remove(&place);
        if let Some(id) = self.detach(place).and_then(|entry| entry.batch) {
            self.show(id);
        }
        self.looks();
    }

    pub(super) fn hide(&mut self, id: DeliveryId) {
        let Some(formed) = self.batches.get(&id) else { return };
        self.partly.remove(&(formed.last, id));
        let Some(first) = formed.members.first() else { return };
        for index in [&mut self.ready, &mut self.bare] {
            index.remove(first);
        }
        self.asked.remove(first);
    }

    /// Puts a batch among those that may start, if it may by time.
    pub(super) fn show(&mut self, id: DeliveryId) {
        let Some(formed) = self.batches.get(&id).filter(|formed| formed.phase == Phase::Idle) else { return };
        let Some(&first) = formed.members.first() else {
            self.batches.remove(&id);
            return;
        };
        if formed.last > self.tail {
            self.partly.insert((formed.last, id));
        } else if formed.asked > 0 || formed.waiting == 0 {
            let index = if formed.bare == 0 { &mut self.ready } else { &mut self.bare };
            index.insert(first, id);
            if formed.asked > 0 {
                self.asked.insert(first);
            }
        }
    }
}

impl Entry {
    fn candidate(&self, place: Place) -> Candidate<'_> {
        Candidate {
            place,
            event_type: &self.kind,
            key: self.key.as_deref(),
            bytes: self.size,
            asked: self.asked,
            alone: self.alone,
            prompt: self.prompt,
            taken: self.batch.is_some() || self.due.is_some(),
        }
    }
}

impl Formed {
    pub(super) fn new(last: Place) -> Self {
        let members = BTreeSet::new();
        Self { members, last, phase: Phase::Idle, waiting: 0, asked: 0, bare: 0, alone: false }
    }
}
