//! The journal before the embedded queue's file: what groups of commands changed since the last
//! checkpoint, a record each, appended and flushed before the group is answered. A checkpoint takes all
//! of it into the file, in one transaction with the next generation's number; then the journal begins anew
//! from its start. Its room is kept and written over, so that a flush has no length to write.
//!
//! | bytes of a record | |
//! | --- | --- |
//! | 8 | checksum (XXH3) of what follows |
//! | 8 | generation |
//! | 4 | length of the changes |
//! | … | changes (`disk_changes`) |
//!
//! It ends where a record is of another generation, or its checksum is wrong: that one was being written in
//! a crash, so nobody was told that it stands. Or the disk has spoilt it: then what comes after it is lost as well,
//! although its callers were answered, for a change counts only with all those before it. That is said in the log when
//! it can be told: when what stands where the spoilt one says that it ends is a whole record of the generation.

use std::io;

use redb::StorageBackend;
use xxhash_rust::xxh3::xxh3_64;

use super::QueueError;

/// A record's head.
pub(super) const HEADER: usize = 20;
/// The file grows by so much …
const STEP: u64 = 1 << 20;
/// … that is written in such pieces: in larger ones the kernel keeps larger pieces of it, and counts each as
/// written when a part of it is.
const PIECE: u64 = 16 << 10;

pub(super) struct Journal {
    file: Box<dyn StorageBackend>,
    generation: u64,
    /// Where the next record goes.
    end: u64,
    /// The file's length.
    room: u64,
}

impl Journal {
    /// The journal in a file, which need not be one yet.
    pub fn open(file: Box<dyn StorageBackend>) -> Result<Self, QueueError> {
        let room = file.len().map_err(failed)?;
        Ok(Self { file, generation: 0, end: 0, room })
    }

    /// Whether nothing was ever written into it.
    pub fn is_new(&self) -> bool {
        self.room == 0
    }

    /// Has each record of a generation read, from the first on.
    pub fn replay(
        &self,
        generation: u64,
        mut read: impl FnMut(&[u8]) -> Result<(), QueueError>,
    ) -> Result<usize, QueueError> {
        let (mut at, mut count) = (0, 0);
        while let Some((of, record)) = self.record(at)?
            && of == generation
        {
            read(&record)?;
            at += (HEADER + record.len()) as u64;
            count += 1;
        }
        if self.goes_on(at, generation)? {
            tracing::warn!(
                records = count,
                at,
                "the queue's journal is damaged: what it has from there on was answered, and is lost"
            );
        }
        Ok(count)
    }

    /// Whether a record of a generation follows on what stands at a place.
    fn goes_on(&self, at: u64, generation: u64) -> Result<bool, QueueError> {
        let Some((_, length)) = self.head(at)? else { return Ok(false) };
        let next = self.record(at + HEADER as u64 + length)?;
        Ok(next.is_some_and(|(of, _)| of == generation))
    }

    /// The generation of the first record, if it has one.
    pub fn first_generation(&self) -> Result<Option<u64>, QueueError> {
        Ok(self.record(0)?.map(|(generation, _)| generation))
    }

    /// A record's head, and how long it says that its changes are.
    fn head(&self, at: u64) -> Result<Option<([u8; HEADER], u64)>, QueueError> {
        let mut head = [0; HEADER];
        if at + HEADER as u64 > self.room {
            return Ok(None);
        }
        self.file.read(at, &mut head).map_err(failed)?;
        let length = number(&head[16..]);
        let is_there = length > 0 && at + HEADER as u64 + length <= self.room;
        Ok(is_there.then_some((head, length)))
    }

    /// A whole record: its generation and what is in it.
    fn record(&self, at: u64) -> Result<Option<(u64, Vec<u8>)>, QueueError> {
        let Some((head, length)) = self.head(at)? else { return Ok(None) };
        let generation = number(&head[8..16]);
        let mut record = vec![0; 12 + length as usize];
        self.file.read(at + 8, &mut record).map_err(failed)?;
        let is_whole = xxh3_64(&record) == number(&head[..8]);
        record.drain(..12);
        Ok(is_whole.then_some((generation, record)))
    }

    /// Begins anew: what is in it is in the file.
    pub fn restart(&mut self, generation: u64) {
        (self.generation, self.end) = (generation, 0);
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// Makes a record durable; its head is written here.
    pub fn append(&mut self, record: &mut [u8]) -> Result<(), QueueError> {
        let length = record.len().saturating_sub(HEADER) as u32;
        record[8..16].copy_from_slice(&self.generation.to_be_bytes());
        record[16..HEADER].copy_from_slice(&length.to_be_bytes());
        let checksum = xxh3_64(&record[8..]);
        record[..8].copy_from_slice(&checksum.to_be_bytes());
        let end = self.end + record.len() as u64;
        self.make_room(end)?;
        self.file.write(self.end, record).map_err(failed)?;
        self.file.sync_data().map_err(failed)?;
        self.end = end;
        Ok(())
    }

    /// Sees to it that the file is longer than `end`, and that the disk has room for what it grows by. A crash in
    /// between may leave the length without the room: a write into it can then fail, as any can.
    pub fn make_room(&mut self, end: u64) -> Result<(), QueueError> {
        if end >= self.room {
            let room = (end / STEP + 1) * STEP;
            self.file.set_len(room).map_err(failed)?;
            while self.room < room {
                let piece = PIECE.min(room - self.room);
                self.file.write(self.room, &[0; PIECE as usize][..piece as usize]).map_err(failed)?;
                self.room += piece;
            }
            self.file.sync_data().map_err(failed)?;
        }
        Ok(())
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn failed(error: io::Error) -> QueueError {
    QueueError::Unavailable(format!("the journal: {error}"))
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    fn record(bytes: &[u8]) -> Vec<u8> {
        [&[0; HEADER], bytes].concat()
    }

    fn records(journal: &Journal, generation: u64) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let count = journal.replay(generation, |record| {
            records.push(record.to_vec());
            Ok(())
        });
        assert_eq!(count.unwrap(), records.len());
        records
    }

    fn written(generation: u64, bytes: &[&[u8]]) -> Journal {
        let mut journal = Journal::open(Box::new(InMemoryBackend::new())).unwrap();
        assert!(journal.is_new() && journal.first_generation().unwrap().is_none());
        journal.restart(generation);
        bytes.iter().for_each(|bytes| journal.append(&mut record(bytes)).unwrap());
        journal
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let journal = written(7, &[b"one", b"and another", b"three"]);
        assert_eq!(records(&journal, 7), [&b"one"[..], b"and another", b"three"]);
        assert_eq!((records(&journal, 8), journal.first_generation().unwrap()), (vec![], Some(7)));
        let again = Journal::open(journal.file).unwrap();
        assert!(!again.is_new());
        assert_eq!(records(&again, 7).len(), 3);
    }

    #[test]
    fn a_generation_ends_where_older_records_follow() {
        let mut journal = written(7, &[b"one", b"two", b"six"]);
        journal.restart(8);
        assert_eq!((records(&journal, 8), journal.bytes()), (vec![], 0));
        journal.append(&mut record(b"new")).unwrap();
        assert_eq!(records(&journal, 8), [b"new"]);
        assert_eq!(records(&journal, 7), [[0_u8; 0]; 0], "what follows is of the one before");
    }

    #[test]
    fn a_torn_record_is_none_and_ends_the_journal() {
        let journal = written(7, &[b"the first", b"the second"]);
        let whole = journal.bytes();
        let mut bytes = vec![0; whole as usize];
        journal.file.read(0, &mut bytes).unwrap();
        let first = (HEADER + 9) as u64;
        for at in 0..whole {
            let intact = if at < first { 0 } else { 1 };
            let cut = InMemoryBackend::new();
            cut.set_len(at).unwrap();
            cut.write(0, &bytes[..at as usize]).unwrap();
            let cut = Journal::open(Box::new(cut)).unwrap();
            assert_eq!(records(&cut, 7).len(), intact, "cut at {at}");

            let mut flipped = bytes.clone();
            flipped[at as usize] ^= 0x10;
            let file = InMemoryBackend::new();
            file.set_len(whole).unwrap();
            file.write(0, &flipped).unwrap();
            let flipped = Journal::open(Box::new(file)).unwrap();
            assert_eq!(records(&flipped, 7).len(), intact, "flipped at {at}");
        }
    }

    #[test]
    fn a_record_that_is_spoilt_is_told_from_one_that_was_being_written() {
        let first = (HEADER + 3) as u64;
        let spoilt = |of: &[&[u8]], at: u64| {
            let mut journal = written(6, &[b"old", b"old", b"old"]);
            journal.restart(7);
            of.iter().for_each(|bytes| journal.append(&mut record(bytes)).unwrap());
            journal.file.write(at, &[0xff]).unwrap();
            assert_eq!(records(&journal, 7).len() as u64, at / first);
            journal.goes_on(at / first * first, 7).unwrap()
        };
        let three: [&[u8]; 3] = [b"one", b"two", b"six"];
        assert!(spoilt(&three, 0) && spoilt(&three, first) && spoilt(&three, 2 * first - 1));
        assert!(!spoilt(&three, 2 * first) && !spoilt(&three[..2], first) && !spoilt(&three[..1], 0));
        assert!(!written(7, &three).goes_on(3 * first, 7).unwrap(), "none is spoilt");
    }

    #[test]
    fn the_file_grows_in_steps_and_is_used_again() {
        let mut journal = written(1, &[]);
        let large = vec![7; STEP as usize / 2];
        for _ in 0..3 {
            journal.append(&mut record(&large)).unwrap();
        }
        assert_eq!(journal.room % STEP, 0);
        let room = journal.room;
        journal.restart(2);
        for _ in 0..3 {
            journal.append(&mut record(&large)).unwrap();
        }
        assert_eq!((journal.room, records(&journal, 2).len()), (room, 3));
    }
}
