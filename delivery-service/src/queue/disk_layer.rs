//! A table by delivery id, and what a group of commands has changed in it. Changes are written at the
//! group's end in order of ids, runs of them at once: what a group adds fills page after page, and what
//! it takes away, mostly what was added together, leaves whole pages. One by one in any order they
//! would have redb split, copy and merge pages over and over.

use std::{collections::BTreeMap, mem, ops::Bound};

use bytes::Bytes;
use redb::{CursorError, ReadableTable, StorageError, Table};

type Id = [u8; 16];

/// From so many changes on, a run is written at once.
const RUN: usize = 4;
/// Bytes of values that are written as one stretch.
const STRETCH: usize = 32 << 10;

pub(super) struct Layer<'t> {
    table: Table<'t, &'static Id, &'static [u8]>,
    /// None: it is gone.
    changes: BTreeMap<Id, Option<Bytes>>,
}

impl<'t> Layer<'t> {
    pub fn new(table: Table<'t, &'static Id, &'static [u8]>) -> Self {
        Self { table, changes: BTreeMap::new() }
    }

    pub fn read<T>(&self, id: Id, read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, StorageError> {
        match self.changes.get(&id) {
            Some(changed) => Ok(changed.as_deref().map(read)),
            None => Ok(self.table.get(&id)?.map(|value| read(value.value()))),
        }
    }

    pub fn insert(&mut self, id: Id, value: Bytes) {
        self.changes.insert(id, Some(value));
    }

    pub fn remove(&mut self, id: Id) {
        self.changes.insert(id, None);
    }

    /// Writes the changes into the table.
    pub fn write(&mut self) -> Result<(), StorageError> {
        let changes: Vec<_> = mem::take(&mut self.changes).into_iter().collect();
        for run in changes.chunk_by(|(a, _), (b, _)| near(a, b)) {
            match run {
                [(first, _), .., (last, _)] if run.len() >= RUN => {
                    let mut old = run.iter().map(|(id, _)| id).peekable();
                    self.table.retain_in::<&Id, _>(first..=last, |id, _| {
                        while old.next_if(|&old| old < id).is_some() {}
                        old.peek() != Some(&id)
                    })?;
                    add(&mut self.table, run)?;
                }
                run => run.iter().try_for_each(|(id, value)| match value {
                    Some(value) => self.table.insert(id, value.as_ref()).map(drop),
                    None => self.table.remove(id).map(drop),
                })?,
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn len(&self) -> Result<u64, StorageError> {
        redb::ReadableTableMetadata::len(&self.table)
    }
}

/// Adds a run's values, of which the table has none.
fn add(table: &mut Table<'_, &Id, &[u8]>, run: &[(Id, Option<Bytes>)]) -> Result<(), StorageError> {
    let mut new = run.iter().filter_map(|(id, value)| Some((id, value.as_deref()?))).peekable();
    while let Some((first, value)) = new.next() {
        table.insert(first, value)?;
        // Others that lie between end a stretch, and so do many bytes: they are gathered in a buffer
        // whose growth costs more than another stretch.
        let mut cursor = table.lower_bound_mut(Bound::Excluded(first))?;
        let mut bytes = 0;
        while let Some((id, value)) = new.peek()
            && bytes < STRETCH
        {
            bytes += value.len();
            match cursor.insert_before(*id, *value) {
                Ok(()) => drop(new.next()),
                Err(CursorError::Storage(error)) => return Err(error),
                Err(_) => break,
            }
        }
        cursor.close()?;
    }
    Ok(())
}

/// Whether few others can be between two ids: their first 8 bytes end in milliseconds.
fn near(a: &Id, b: &Id) -> bool {
    let ms = |id: &Id| u128::from_be_bytes(*id) >> 64;
    ms(b).saturating_sub(ms(a)) <= 2
}

#[cfg(test)]
mod tests {
    use redb::{TableDefinition, backends::InMemoryBackend};

    use super::*;

    const TABLE: TableDefinition<&Id, &[u8]> = TableDefinition::new("table");

    /// Sorts by its number, some of which lie close together.
    fn id(number: u64) -> Id {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number / 100 * 10 + number % 2).to_be_bytes());
        id[8..].copy_from_slice(&number.to_be_bytes());
        id
    }

    #[test]
    fn what_a_group_changed_is_read_at_once_and_stands_in_the_table_afterwards() {
        let database = redb::Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
        let mut wanted: BTreeMap<Id, Bytes> = BTreeMap::new();
        let mut chance = 1_u64;
        let mut next = |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) % below
        };
        for group in 0..60 {
            let txn = database.begin_write().unwrap();
            let mut layer = Layer::new(txn.open_table(TABLE).unwrap());
            let (from, count) = (next(2_000), next(400));
            for _ in 0..count {
                let id = id(from + next(300));
                if next(5) < 2 {
                    layer.remove(id);
                    wanted.remove(&id);
                } else {
                    let value = Bytes::from(vec![group as u8; next(1_500) as usize]);
                    layer.insert(id, value.clone());
                    wanted.insert(id, value);
                }
                let read = layer.read(id, Bytes::copy_from_slice).unwrap();
                assert_eq!(read.as_ref(), wanted.get(&id));
            }
            layer.write().unwrap();
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
}
