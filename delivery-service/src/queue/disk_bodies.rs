//! Bodies in the embedded queue's file, while a delivery needs them. One that several deliveries of an event
//! share is kept once, by what their ids have in common, until the last of them needs it no more.

use bytes::Bytes;
use common::ids::DeliveryId;
use redb::{ReadTransaction, StorageError, TableError, WriteTransaction};

use super::{
    QueueError,
    disk_changes::Changes,
    disk_field::near,
    disk_layer::Layer,
    disk_tables::{BODIES, ById},
};

/// By what ids have in common: the last bytes of those that need the body.
const SHARERS: ById<&[u8]> = ById::new("sharers");

pub(super) struct Bodies<'t> {
    pub rows: Layer<'t, &'static [u8; 16], &'static [u8]>,
    pub sharers: Layer<'t, &'static [u8; 16], &'static [u8]>,
}

impl<'t> Bodies<'t> {
    /// The numbers that the two tables have in the journal come with them.
    pub fn open(
        txn: &'t WriteTransaction,
        [rows, sharers]: [u8; 2],
        changes: &Changes,
    ) -> Result<Self, TableError> {
        Ok(Self {
            rows: Layer::open(txn, rows, BODIES, changes, near)?,
            sharers: Layer::open(txn, sharers, SHARERS, changes, near)?,
        })
    }

    /// A new delivery needs its body.
    pub fn add(&mut self, id: DeliveryId, body: &Bytes) -> Result<(), StorageError> {
        let (key, number) = split(id);
        if number > 0 {
            if let Some(others) = self.sharers.get(&key)? {
                self.sharers.put(key, [&others[..], &[number]].concat().into());
                return Ok(());
            }
            self.sharers.add(key, vec![number].into());
        }
        self.rows.add(key, body.clone());
        Ok(())
    }

    /// A delivery needs its body no more.
    pub fn remove(&mut self, id: DeliveryId) -> Result<(), StorageError> {
        let (key, number) = split(id);
        if number > 0 {
            let Some(all) = self.sharers.get(&key)? else { return Ok(()) };
            let others: Bytes = all.iter().copied().filter(|&other| other != number).collect();
            if !others.is_empty() {
                self.sharers.put(key, others);
                return Ok(());
            }
            self.sharers.remove(key);
        }
        self.rows.remove(key);
        Ok(())
    }

    /// The body of a delivery that needs it.
    pub fn get(&self, id: DeliveryId) -> Result<Option<Bytes>, StorageError> {
        let (key, number) = split(id);
        if number == 0 || self.has(id)? { self.rows.get(&key) } else { Ok(None) }
    }

    /// Whether a delivery needs a body, and has it.
    pub fn has(&self, id: DeliveryId) -> Result<bool, StorageError> {
        let (key, number) = split(id);
        Ok(match number {
            0 => self.rows.read(&key, |_| ())?.is_some(),
            _ => self.sharers.read(&key, |all| all.contains(&number))?.unwrap_or_default(),
        })
    }

    pub fn held_bytes(&self) -> usize {
        self.rows.held_bytes() + self.sharers.held_bytes()
    }

    pub fn flush(&mut self) -> Result<(), StorageError> {
        self.rows.flush()?;
        self.sharers.flush()
    }
}

/// `Bodies::get`, of a snapshot.
pub(super) fn body(txn: &ReadTransaction, id: DeliveryId) -> Result<Option<Bytes>, QueueError> {
    let (key, number) = split(id);
    if number > 0 {
        let sharers = txn.open_table(SHARERS)?.get(&key)?;
        if sharers.is_none_or(|sharers| !sharers.value().contains(&number)) {
            return Ok(None);
        }
    }
    let body = txn.open_table(BODIES)?.get(&key)?;
    Ok(body.map(|body| Bytes::copy_from_slice(body.value())))
}

/// Where its body is, and which one it is of those that share it.
fn split(id: DeliveryId) -> ([u8; 16], u8) {
    let [.., number] = id.bytes();
    (id.sharing(0).bytes(), number)
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    #[test]
    fn a_shared_body_is_kept_once_and_leaves_nothing_whatever_is_flushed_meanwhile() {
        let database = redb::Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
        let id = DeliveryId::new(3, 1_700_000_000_000, 0xab_cdef);
        let body = Bytes::from(vec![7; 1_000]);
        for flushes in [false, true] {
            let txn = database.begin_write().unwrap();
            let mut bodies = Bodies::open(&txn, [2, 14], &Changes::new()).unwrap();
            let flush = |bodies: &mut Bodies<'_>| {
                if flushes {
                    bodies.flush().unwrap()
                }
            };
            for number in 0..=9 {
                // 0 shares with none, and is another one's.
                let id = if number == 0 { DeliveryId::new(3, 1, 1) } else { id.sharing(number) };
                bodies.add(id, &body).unwrap();
                flush(&mut bodies);
            }
            assert!(flushes || bodies.held_bytes() < 3_000, "{}", bodies.held_bytes());
            for number in (1..=9).rev() {
                assert_eq!(bodies.get(id.sharing(number)).unwrap().as_ref(), Some(&body), "{number}");
                // Said twice, it counts once.
                bodies.remove(id.sharing(number)).unwrap();
                flush(&mut bodies);
                bodies.remove(id.sharing(number)).unwrap();
                assert_eq!(bodies.get(id.sharing(number)).unwrap(), None, "{number}");
            }
            bodies.flush().unwrap();
            assert_eq!((bodies.rows.len().unwrap(), bodies.sharers.len().unwrap()), (1, 0));
            bodies.remove(DeliveryId::new(3, 1, 1)).unwrap();
            bodies.flush().unwrap();
            assert_eq!(bodies.rows.len().unwrap(), 0);
            drop(bodies);
            txn.commit().unwrap();
        }
    }
}
