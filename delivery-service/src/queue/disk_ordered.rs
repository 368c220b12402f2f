//! A table that is read in order of keys, and the rows that were put since the last flush. What is put and
//! taken away between two flushes never touches the table; what the table has is taken away at once,
//! so that reading never has to pass over what is gone.

use std::{
    collections::{BTreeMap, btree_map},
    iter::Peekable,
    mem,
};

use redb::{Key, Range, ReadableTable, StorageError, Table, TableDefinition, TableError, WriteTransaction};

use super::{
    QueueError,
    disk_changes::{Change, Changes},
    disk_field::{Field, put_run, same_start},
};

pub(super) struct Ordered<'t, K: Field + Key, V: Field> {
    number: u8,
    table: Table<'t, K, V>,
    rows: BTreeMap<K::Own, V::Own>,
    changes: Changes,
    /// Rows are put once and taken away once: none of `rows` is in the table too.
    once: bool,
}

type Row<K, V> = (<K as Field>::Own, <V as Field>::Own);

impl<'t, K: Field + Key, V: Field> Ordered<'t, K, V> {
    pub fn open(
        txn: &'t WriteTransaction,
        number: u8,
        definition: TableDefinition<'_, K, V>,
        changes: &Changes,
    ) -> Result<Self, TableError> {
        let table = txn.open_table(definition)?;
        Ok(Self { number, table, rows: BTreeMap::new(), changes: changes.clone(), once: false })
    }

    /// Its rows are put once and taken away once.
    pub fn once(self) -> Self {
        Self { once: true, ..self }
    }

    pub fn get(&self, key: &K::Own) -> Result<Option<V::Own>, StorageError> {
        match self.rows.get(key) {
            Some(value) => Ok(Some(value.clone())),
            None => {
                let value = self.table.get(K::from_bytes(key.as_ref()))?;
                Ok(value.and_then(|value| V::own(V::as_bytes(&value.value()).as_ref())))
            }
        }
    }

    pub fn put(&mut self, key: K::Own, value: V::Own) {
        self.changes.note(&Change::Put(self.number, key.as_ref(), value.as_ref()));
        self.rows.insert(key, value);
    }

    pub fn remove(&mut self, key: &K::Own) -> Result<(), StorageError> {
        self.changes.note(&Change::Remove(self.number, key.as_ref()));
        if self.rows.remove(key).is_none() || !self.once {
            self.table.remove(K::from_bytes(key.as_ref()))?;
        }
        Ok(())
    }

    /// Takes all rows from a key to another away.
    pub fn remove_range(&mut self, first: &K::Own, last: &K::Own) -> Result<(), StorageError> {
        self.changes.note(&Change::RemoveRange(self.number, first.as_ref(), last.as_ref()));
        let gone: Vec<_> =
            self.rows.range(first.clone()..=last.clone()).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| drop(self.rows.remove(key)));
        let range = K::from_bytes(first.as_ref())..=K::from_bytes(last.as_ref());
        self.table.retain_in::<K::SelfType<'_>, _>(range, |_, _| false)
    }

    /// Rows from a key to another, in order.
    pub fn range<'a>(&'a self, from: &'a K::Own, to: &'a K::Own) -> Result<Rows<'a, K, V>, StorageError> {
        let range = K::from_bytes(from.as_ref())..=K::from_bytes(to.as_ref());
        let table = self.table.range::<K::SelfType<'a>>(range)?;
        let rows = self.rows.range(from.clone()..=to.clone()).peekable();
        Ok(Rows { table, next: None, rows })
    }

    pub fn first(&self, from: &K::Own, to: &K::Own) -> Result<Option<Row<K, V>>, StorageError> {
        self.range(from, to)?.next().transpose()
    }

    /// Makes a change again that the journal has. The table may have what came of it, and of later ones.
    pub fn replay(&mut self, change: &Change<'_>) -> Result<(), QueueError> {
        let strange = || QueueError::Damaged("a record of the journal is of another layout".into());
        let key = |key| K::own(key).ok_or_else(strange);
        self.once = false;
        match *change {
            Change::Put(_, at, value) => self.put(key(at)?, V::own(value).ok_or_else(strange)?),
            Change::Remove(_, at) => self.remove(&key(at)?)?,
            Change::RemoveRange(_, first, last) => self.remove_range(&key(first)?, &key(last)?)?,
        }
        Ok(())
    }

    /// What the rows take in memory, about.
    pub fn held_bytes(&self) -> usize {
        self.rows.len() * size_of::<Row<K, V>>()
    }

    /// Writes the rows into the table.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        let rows = mem::take(&mut self.rows);
        let rows: Vec<_> = rows.iter().collect();
        let mut runs = rows.chunk_by(|(a, _), (b, _)| same_start(a.as_ref(), b.as_ref()));
        runs.try_for_each(|run| put_run(&mut self.table, run))
    }

    #[cfg(test)]
    pub fn len(&self) -> Result<u64, StorageError> {
        redb::ReadableTableMetadata::len(&self.table)
    }
}

/// What is in the table and what is not yet, merged.
pub(super) struct Rows<'a, K: Field + Key, V: Field> {
    table: Range<'a, K, V>,
    /// The table's next row.
    next: Option<Row<K, V>>,
    rows: Peekable<btree_map::Range<'a, K::Own, V::Own>>,
}

impl<K: Field + Key, V: Field> Rows<'_, K, V> {
    fn of_table(&mut self) -> Result<Option<Row<K, V>>, StorageError> {
        if let Some(next) = self.next.take() {
            return Ok(Some(next));
        }
        let Some((key, value)) = self.table.next().transpose()? else { return Ok(None) };
        let (key, value) = (key.value(), value.value());
        Ok(K::own(K::as_bytes(&key).as_ref()).zip(V::own(V::as_bytes(&value).as_ref())))
    }
}

impl<K: Field + Key, V: Field> Iterator for Rows<'_, K, V> {
    type Item = Result<Row<K, V>, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let of_table = match self.of_table() {
            Ok(row) => row,
            Err(error) => return Some(Err(error)),
        };
        let Some((key, _)) = self.rows.peek() else { return of_table.map(Ok) };
        match of_table {
            Some(row) if row.0 < **key => return Some(Ok(row)),
            // The newer one counts.
            Some(row) if row.0 == **key => {}
            other => self.next = other,
        }
        self.rows.next().map(|(key, value)| Ok((key.clone(), value.clone())))
    }
}

#[cfg(test)]
mod tests {
    use redb::{TableDefinition, backends::InMemoryBackend};

    use super::*;

    type Id = [u8; 16];
    const TABLE: TableDefinition<&Id, &Id> = TableDefinition::new("table");

    fn id(number: u64) -> Id {
        u128::from(number).to_be_bytes()
    }

    #[test]
    fn it_reads_as_one_table_whatever_is_flushed() {
        let database = redb::Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
        let mut wanted: BTreeMap<Id, Id> = BTreeMap::new();
        let mut chance = 1_u64;
        let mut next = |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) % below
        };
        let txn = database.begin_write().unwrap();
        let mut ordered = Ordered::open(&txn, 1, TABLE, &Changes::new()).unwrap();
        for round in 0..20_000 {
            let key = id(next(300));
            match next(9) {
                0..4 => {
                    ordered.put(key, id(round));
                    wanted.insert(key, id(round));
                }
                4..7 => {
                    ordered.remove(&key).unwrap();
                    wanted.remove(&key);
                }
                7 => {
                    let last = id(u128::from_be_bytes(key) as u64 + next(9));
                    ordered.remove_range(&key, &last).unwrap();
                    wanted.retain(|at, _| *at < key || *at > last);
                }
                _ if next(20) == 0 => ordered.flush().unwrap(),
                _ => {
                    let to = id(300);
                    let rows = ordered.range(&key, &to).unwrap().map(Result::unwrap);
                    assert!(rows.eq(wanted.range(key..).map(|(key, value)| (*key, *value))), "{round}");
                }
            }
            assert_eq!(ordered.get(&key).unwrap(), wanted.get(&key).copied());
        }
        ordered.flush().unwrap();
        assert_eq!(ordered.len().unwrap(), wanted.len() as u64);
    }
}
