//! Keys and values of the embedded queue's tables as they are kept in memory, owned, and how sorted runs of
//! them get into a table: many at once, for one by one redb would split and copy pages over and over.

use std::{hash::Hash, ops::Bound};

use bytes::Bytes;
use redb::{CursorError, Key, StorageError, Table, Value};

/// From so many rows on, a run is written at once.
pub(super) const RUN: usize = 4;
/// Bytes of values that are written as one stretch.
const STRETCH: usize = 32 << 10;

/// A key or a value. What is owned sorts as the table does.
pub(super) trait Field: Value + 'static {
    type Own: AsRef<[u8]> + Clone + Ord + Hash;

    /// None when these bytes are none.
    fn own(bytes: &[u8]) -> Option<Self::Own>;
}

impl<const N: usize> Field for &'static [u8; N] {
    type Own = [u8; N];

    fn own(bytes: &[u8]) -> Option<Self::Own> {
        bytes.try_into().ok()
    }
}

impl Field for &'static [u8] {
    type Own = Bytes;

    fn own(bytes: &[u8]) -> Option<Self::Own> {
        Some(Bytes::copy_from_slice(bytes))
    }
}

/// Little-endian, as redb has it.
impl Field for i64 {
    type Own = [u8; 8];

    fn own(bytes: &[u8]) -> Option<Self::Own> {
        bytes.try_into().ok()
    }
}

impl Field for () {
    type Own = [u8; 0];

    fn own(bytes: &[u8]) -> Option<Self::Own> {
        bytes.try_into().ok()
    }
}

/// Puts a run into a table, sorted by key; quick when the table has none of it, and none between.
pub(super) fn put_run<K: Field + Key, V: Field>(
    table: &mut Table<'_, K, V>,
    run: &[(&K::Own, &V::Own)],
) -> Result<(), StorageError> {
    if run.len() < RUN {
        for (key, value) in run {
            table.insert(K::from_bytes(key.as_ref()), V::from_bytes(value.as_ref()))?;
        }
        return Ok(());
    }
    let mut rows = run.iter().peekable();
    while let Some((first, value)) = rows.next() {
        let first = K::from_bytes(first.as_ref());
        table.insert(&first, V::from_bytes(value.as_ref()))?;
        if rows.peek().is_none() {
            break;
        }
        // Others that lie between end a stretch, and so do many bytes: they are gathered in a buffer
        // whose growth costs more than another stretch.
        let mut cursor = table.lower_bound_mut(Bound::Excluded(first))?;
        let mut bytes = 0;
        while let Some((key, value)) = rows.peek()
            && bytes < STRETCH
        {
            bytes += value.as_ref().len();
            match cursor.insert_before(K::from_bytes(key.as_ref()), V::from_bytes(value.as_ref())) {
                Ok(()) => drop(rows.next()),
                Err(CursorError::Storage(error)) => return Err(error),
                Err(_) => break,
            }
        }
        cursor.close()?;
    }
    Ok(())
}

/// Whether few others can be between two keys that begin with a lane or a time: hardly any lanes have 8 bytes in common.
pub(super) fn same_start(a: &[u8], b: &[u8]) -> bool {
    a.get(..8) == b.get(..8)
}

/// Whether few others can be between two ids of deliveries: their first 8 bytes end in milliseconds.
pub(super) fn near(a: &[u8], b: &[u8]) -> bool {
    let ms = |id: &[u8]| id.first_chunk().map_or(0, |ms| u64::from_be_bytes(*ms));
    ms(b).saturating_sub(ms(a)) <= 2
}
