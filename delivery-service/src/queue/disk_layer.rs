//! A table that is read by key, and what has changed in it since the last flush. What is added and
//! taken away between two flushes, as most bodies are, never touches the table. The rest is written in order
//! of keys, runs of them at once: what is added fills page after page, and what is taken away, mostly
//! what was added together, leaves whole pages.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
};

use redb::{Key, ReadableTable, StorageError, Table, TableDefinition, TableError, WriteTransaction};

use super::{
    QueueError,
    disk_changes::{Change, Changes},
    disk_field::{Field, RUN, put_run},
};

pub(super) struct Layer<'t, K: Field + Key, V: Field> {
    number: u8,
    table: Table<'t, K, V>,
    rows: HashMap<K::Own, Row<V::Own>>,
    /// What is in `rows`: bytes of keys and values, and room for them in the map, about.
    held_bytes: usize,
    /// Those of `rows` that the table may have.
    in_table: usize,
    changes: Changes,
    /// Whether few other rows can be between two.
    near: fn(&[u8], &[u8]) -> bool,
}

struct Row<V> {
    /// None: it is gone.
    value: Option<V>,
    /// Whether the table may have one.
    in_table: bool,
}

impl<'t, K: Field + Key, V: Field> Layer<'t, K, V> {
    pub fn open(
        txn: &'t WriteTransaction,
        number: u8,
        definition: TableDefinition<'_, K, V>,
        changes: &Changes,
        near: fn(&[u8], &[u8]) -> bool,
    ) -> Result<Self, TableError> {
        let table = txn.open_table(definition)?;
        Ok(Self {
            number,
            table,
            rows: HashMap::new(),
            held_bytes: 0,
            in_table: 0,
            changes: changes.clone(),
            near,
        })
    }

    pub fn read<T>(&self, key: &K::Own, read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, StorageError> {
        match self.rows.get(key) {
            Some(row) => Ok(row.value.as_ref().map(|value| read(value.as_ref()))),
            None => {
                let value = self.table.get(K::from_bytes(key.as_ref()))?;
                Ok(value.map(|value| read(V::as_bytes(&value.value()).as_ref())))
            }
        }
    }

    pub fn get(&self, key: &K::Own) -> Result<Option<V::Own>, StorageError> {
        match self.rows.get(key) {
            Some(row) => Ok(row.value.clone()),
            None => {
                let value = self.table.get(K::from_bytes(key.as_ref()))?;
                Ok(value.and_then(|value| V::own(V::as_bytes(&value.value()).as_ref())))
            }
        }
    }

    /// Adds a row of which there was none.
    pub fn add(&mut self, key: K::Own, value: V::Own) {
        self.changes.note(&Change::Put(self.number, key.as_ref(), value.as_ref()));
        self.set(key, Some(value), false);
    }

    pub fn put(&mut self, key: K::Own, value: V::Own) {
        self.changes.note(&Change::Put(self.number, key.as_ref(), value.as_ref()));
        self.set(key, Some(value), true);
    }

    pub fn remove(&mut self, key: K::Own) {
        self.changes.note(&Change::Remove(self.number, key.as_ref()));
        self.set(key, None, true);
    }

    /// `in_table` counts for a row that has not changed yet.
    fn set(&mut self, key: K::Own, value: Option<V::Own>, in_table: bool) {
        let weight = |key: &K::Own, value: Option<&V::Own>| {
            size_of::<(K::Own, Row<V::Own>)>() + key.as_ref().len() + value.map_or(0, |v| v.as_ref().len())
        };
        self.held_bytes += weight(&key, value.as_ref());
        match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                self.in_table += usize::from(in_table);
                entry.insert(Row { value, in_table });
            }
            Entry::Occupied(entry) if value.is_none() && !entry.get().in_table => {
                let (key, before) = entry.remove_entry();
                self.held_bytes -= weight(&key, before.value.as_ref()) + weight(&key, None);
            }
            Entry::Occupied(mut entry) => {
                let before = mem::replace(&mut entry.get_mut().value, value);
                self.held_bytes -= weight(entry.key(), before.as_ref());
            }
        }
    }

    /// Makes a change again that the journal has. The table may have what came of it, and of later ones.
    pub fn replay(&mut self, change: &Change<'_>) -> Result<(), QueueError> {
        let strange = || QueueError::Damaged("a record of the journal is of another layout".into());
        match *change {
            Change::Put(_, key, value) => {
                self.put(K::own(key).ok_or_else(strange)?, V::own(value).ok_or_else(strange)?);
            }
            Change::Remove(_, key) => self.remove(K::own(key).ok_or_else(strange)?),
            Change::RemoveRange(..) => return Err(strange()),
        }
        Ok(())
    }

    /// Keys that were put since the last flush and are still there, in any order.
    pub fn keys(&self) -> impl Iterator<Item = &K::Own> {
        self.rows.iter().filter(|(_, row)| row.value.is_some()).map(|(key, _)| key)
    }

    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// How many rows of the table have changed.
    pub fn changed_rows(&self) -> usize {
        self.in_table
    }

    /// Writes the changes into the table.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        let mut rows: Vec<_> = self.rows.drain().collect();
        (self.held_bytes, self.in_table) = (0, 0);
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for run in rows.chunk_by(|(a, _), (b, _)| (self.near)(a.as_ref(), b.as_ref())) {
            let mut old = run.iter().filter(|(_, row)| row.in_table).map(|(key, _)| key);
            if run.len() < RUN {
                let gone = run.iter().filter(|(_, row)| row.value.is_none());
                for (key, _) in gone {
                    self.table.remove(K::from_bytes(key.as_ref()))?;
                }
            } else if let Some(first) = old.clone().next() {
                let last = old.clone().next_back().unwrap_or(first);
                let range = K::from_bytes(first.as_ref())..=K::from_bytes(last.as_ref());
                let mut next = old.next();
                self.table.retain_in::<K::SelfType<'_>, _>(range, |key, _| {
                    let key = K::as_bytes(&key);
                    while next.is_some_and(|next| next.as_ref() < key.as_ref()) {
                        next = old.next();
                    }
                    next.is_none_or(|next| next.as_ref() != key.as_ref())
                })?;
            }
            let put: Vec<_> = run.iter().filter_map(|(key, row)| Some((key, row.value.as_ref()?))).collect();
            put_run(&mut self.table, &put)?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn len(&self) -> Result<u64, StorageError> {
        redb::ReadableTableMetadata::len(&self.table)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use redb::{TableDefinition, backends::InMemoryBackend};

    use super::*;
    use crate::queue::disk_field::near;

    type Id = [u8; 16];
    const TABLE: TableDefinition<&Id, &[u8]> = TableDefinition::new("table");

    /// Sorts by its number, some of which lie close together.
    fn id(number: u64) -> Id {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number / 100 * 10 + number % 2).to_be_bytes());
        id[8..].copy_from_slice(&number.to_be_bytes());
        id
    }

    fn weighed(layer: &Layer<'_, &'static Id, &'static [u8]>) -> usize {
        let rows = layer.rows.iter().map(|(key, row)| size_of_val(key) + size_of_val(row));
        let bytes = layer.rows.iter().map(|(key, row)| key.len() + row.value.as_ref().map_or(0, Bytes::len));
        rows.sum::<usize>() + bytes.sum::<usize>()
    }

    #[test]
    fn what_has_changed_is_read_at_once_and_stands_in_the_table_afterwards() {
        let database = redb::Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
        let mut wanted: BTreeMap<Id, Bytes> = BTreeMap::new();
        let mut chance = 1_u64;
        let mut next = |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) % below
        };
        for group in 0..60 {
            let txn = database.begin_write().unwrap();
            let mut layer = Layer::open(&txn, 1, TABLE, &Changes::new(), near).unwrap();
            let (from, count) = (next(2_000), next(400));
            for _ in 0..count {
                let id = id(from + next(300));
                if next(5) < 2 {
                    layer.remove(id);
                    wanted.remove(&id);
                } else {
                    let value = Bytes::from(vec![group as u8; next(1_500) as usize]);
                    if wanted.insert(id, value.clone()).is_none() && next(4) > 0 {
                        layer.add(id, value);
                    } else {
                        layer.put(id, value);
                    }
                }
                let read = layer.read(&id, Bytes::copy_from_slice).unwrap();
                assert_eq!(read.as_ref(), wanted.get(&id));
            }
            assert_eq!(layer.held_bytes(), weighed(&layer), "group {group}");
            assert_eq!(layer.changed_rows(), layer.rows.values().filter(|row| row.in_table).count());
            layer.flush().unwrap();
            assert_eq!((layer.held_bytes(), layer.changed_rows()), (0, 0));
            let all = layer.table.iter().unwrap().map(|entry| {
                let (id, value) = entry.unwrap();
                (*id.value(), Bytes::copy_from_slice(value.value()))
            });
            assert!(all.eq(wanted.iter().map(|(id, value)| (*id, value.clone()))), "group {group}");
            drop(layer);
            txn.commit().unwrap();
        }
        assert!(wanted.len() > 500, "{}", wanted.len());
    }

    #[test]
    fn changes_made_again_come_to_the_same_whatever_of_them_the_table_has() {
        let changes = Changes::new();
        let database = redb::Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
        let txn = database.begin_write().unwrap();
        let mut layer = Layer::open(&txn, 1, TABLE, &changes, near).unwrap();
        for number in 0..9 {
            layer.add(id(number), Bytes::from_static(b"first"));
        }
        layer.remove(id(1));
        layer.flush().unwrap();
        layer.put(id(2), Bytes::from_static(b"second"));
        layer.remove(id(3));
        let record = changes.record(|record| record[super::super::disk_journal::HEADER..].to_vec());
        // Of the second half, the table has nothing yet.
        for change in super::super::disk_changes::read(&record) {
            layer.replay(&change.unwrap()).unwrap();
        }
        layer.flush().unwrap();
        let all: Vec<_> = layer.table.iter().unwrap().map(|entry| *entry.unwrap().0.value()).collect();
        assert_eq!(all, [0, 2, 4, 6, 8, 5, 7].map(id));
        assert_eq!(layer.read(&id(2), <[u8]>::to_vec).unwrap().unwrap(), b"second");
    }
}
