//! What a group of commands changes in the tables, as bytes for the journal: keys and values as they are
//! then, so that making the changes again, in their order, comes to the same from whatever state
//! between the first and the last of them.
//!
//! | bytes | |
//! | --- | --- |
//! | 1 | number of the table × 4 + kind: 0 put, 1 remove, 2 remove a range |
//! | 4, … | length, key, or the range's first |
//! | 4, … | length, value, or the range's last; not of a removed key |

use std::{cell::RefCell, rc::Rc};

use super::{QueueError, disk_journal::HEADER};

/// Changes beyond this are not gathered: the group that makes them is made durable by a checkpoint.
const MOST: usize = 16 << 20;
/// Room that is kept from group to group.
const KEPT: usize = 4 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change<'a> {
    Put(u8, &'a [u8], &'a [u8]),
    Remove(u8, &'a [u8]),
    /// From a key to another, both included.
    RemoveRange(u8, &'a [u8], &'a [u8]),
}

/// Gathers a group's changes; the tables share it.
#[derive(Clone)]
pub(super) struct Changes(Rc<RefCell<Gathered>>);

struct Gathered {
    /// After room for the head of the journal's record.
    bytes: Vec<u8>,
    too_many: bool,
}

impl Changes {
    pub fn new() -> Self {
        Self(Rc::new(RefCell::new(Gathered { bytes: vec![0; HEADER], too_many: false })))
    }

    pub fn note(&self, change: &Change<'_>) {
        let mut gathered = self.0.borrow_mut();
        if gathered.too_many {
            return;
        }
        let (table, kind, first, second) = match *change {
            Change::Put(table, key, value) => (table, 0, key, Some(value)),
            Change::Remove(table, key) => (table, 1, key, None),
            Change::RemoveRange(table, first, last) => (table, 2, first, Some(last)),
        };
        gathered.bytes.push(table << 2 | kind);
        for part in [Some(first), second].into_iter().flatten() {
            gathered.bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
            gathered.bytes.extend_from_slice(part);
        }
        gathered.too_many = gathered.bytes.len() > MOST;
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().bytes.len() <= HEADER
    }

    /// How much there is: more once something has changed, unless there are too many.
    pub fn bytes(&self) -> usize {
        self.0.borrow().bytes.len()
    }

    /// Whether they are more than a record may have.
    pub fn are_too_many(&self) -> bool {
        self.0.borrow().too_many
    }

    /// A record: room for its head, then the changes.
    pub fn record<T>(&self, write: impl FnOnce(&mut [u8]) -> T) -> T {
        write(&mut self.0.borrow_mut().bytes)
    }

    pub fn clear(&self) {
        let mut gathered = self.0.borrow_mut();
        gathered.too_many = false;
        gathered.bytes.truncate(HEADER);
        gathered.bytes.shrink_to(KEPT);
    }
}

/// The changes of a record, without its head.
pub(super) fn read(mut record: &[u8]) -> impl Iterator<Item = Result<Change<'_>, QueueError>> {
    std::iter::from_fn(move || {
        let (&first, rest) = record.split_first()?;
        record = rest;
        let change = read_one(first, &mut record);
        if change.is_none() {
            record = &[];
        }
        Some(change.ok_or_else(|| QueueError::Damaged("a record of the journal cannot be read".into())))
    })
}

fn read_one<'a>(first: u8, rest: &mut &'a [u8]) -> Option<Change<'a>> {
    let mut part = || {
        let (length, after) = rest.split_first_chunk()?;
        let (part, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        *rest = after;
        Some(part)
    };
    let table = first >> 2;
    Some(match first & 3 {
        0 => Change::Put(table, part()?, part()?),
        1 => Change::Remove(table, part()?),
        2 => Change::RemoveRange(table, part()?, part()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_they_were_noted() {
        let changes = Changes::new();
        assert!(changes.is_empty());
        let noted =
            [Change::Put(1, b"key", b"value"), Change::Remove(63, b""), Change::RemoveRange(2, b"a", b"z")];
        noted.iter().for_each(|change| changes.note(change));
        let record = changes.record(|record| record[HEADER..].to_vec());
        assert!(read(&record).map(Result::unwrap).eq(noted));
        for length in 1..record.len() {
            let whole = read(&record[..length]).take_while(Result::is_ok).count();
            let torn = read(&record[..length]).any(|change| change.is_err());
            assert!(torn || [17, 22].contains(&length), "{whole} of {length} bytes");
        }
        changes.clear();
        assert!(changes.is_empty());
    }

    #[test]
    fn too_many_are_not_gathered() {
        let changes = Changes::new();
        let body = vec![0; MOST / 2];
        for too_many in [false, true, true] {
            changes.note(&Change::Put(1, b"key", &body));
            assert_eq!(changes.are_too_many(), too_many);
        }
        assert!(changes.record(|record| record.len()) < 2 * MOST);
        changes.clear();
        assert!(!changes.are_too_many() && changes.is_empty());
    }
}
