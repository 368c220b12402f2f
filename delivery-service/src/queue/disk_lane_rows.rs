//! What stands of lanes in the embedded queue's file, and what has changed of it since the last flush: a
//! lane's row is written once for many groups, and goes into the journal once for each.

use std::collections::HashMap;

use common::ids::WebhookId;
use prost::Message;
use redb::{ReadableTable, StorageError, Table, TableError, WriteTransaction};

use super::{
    QueueError,
    disk_changes::{Change, Changes},
    disk_row::Row,
    disk_tables::LANES,
};

pub(super) struct LaneRows<'t> {
    number: u8,
    table: Table<'t, &'static [u8; 16], &'static [u8]>,
    rows: HashMap<WebhookId, Row>,
    /// Put since the group began, some twice.
    news: Vec<WebhookId>,
    changes: Changes,
}

impl<'t> LaneRows<'t> {
    pub fn open(txn: &'t WriteTransaction, number: u8, changes: &Changes) -> Result<Self, TableError> {
        let table = txn.open_table(LANES)?;
        Ok(Self { number, table, rows: HashMap::new(), news: Vec::new(), changes: changes.clone() })
    }

    /// A lane's row; an empty one for a lane that is not known.
    pub fn get(&self, lane: WebhookId) -> Result<Row, QueueError> {
        match self.rows.get(&lane) {
            Some(row) => Ok(row.clone()),
            None => Ok(Row::read(&self.table, lane)?.unwrap_or_default()),
        }
    }

    pub fn put(&mut self, lane: WebhookId, row: Row) {
        self.rows.insert(lane, row);
        self.news.push(lane);
    }

    pub fn remove(&mut self, lane: WebhookId) -> Result<(), StorageError> {
        self.changes.note(&Change::Remove(self.number, &lane.bytes()));
        self.rows.remove(&lane);
        self.table.remove(&lane.bytes()).map(drop)
    }

    /// Some lanes from one on, among those that were there at the last flush.
    pub fn from(&self, from: [u8; 16], most: usize) -> Result<Vec<[u8; 16]>, StorageError> {
        let lanes = self.table.range::<&[u8; 16]>(&from..)?.take(most);
        lanes.map(|entry| entry.map(|(lane, _)| *lane.value())).collect()
    }

    /// A group ends: its changes are as they will be.
    pub fn note(&mut self) {
        self.news.sort_unstable();
        self.news.dedup();
        for lane in self.news.drain(..) {
            // Unless it was removed since.
            if let Some(row) = self.rows.get(&lane) {
                self.changes.note(&Change::Put(self.number, &lane.bytes(), &row.encode_to_vec()));
            }
        }
    }

    pub fn replay(&mut self, change: &Change<'_>) -> Result<(), QueueError> {
        let strange = || QueueError::Damaged("a record of the journal is of another layout".into());
        let lane = |lane: &[u8]| lane.try_into().map(WebhookId::from_bytes).map_err(|_| strange());
        match *change {
            Change::Put(_, key, row) => {
                self.rows.insert(lane(key)?, Row::decode(row).map_err(|_| strange())?);
            }
            Change::Remove(_, key) => self.remove(lane(key)?)?,
            Change::RemoveRange(..) => return Err(strange()),
        }
        Ok(())
    }

    /// What the rows take in memory, about.
    pub fn held_bytes(&self) -> usize {
        self.rows.len() * size_of::<(WebhookId, Row)>()
    }

    /// Writes the rows into the table.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        let mut rows: Vec<_> = self.rows.drain().collect();
        rows.sort_unstable_by_key(|(lane, _)| *lane);
        for (lane, row) in rows {
            self.table.insert(&lane.bytes(), row.encode_to_vec().as_slice())?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn len(&self) -> Result<u64, StorageError> {
        redb::ReadableTableMetadata::len(&self.table)
    }
}
