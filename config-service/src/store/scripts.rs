//! The steps of the Redis store, each one Lua script and so one atomic step. All keys of a script lie in
//! one slot and are declared. KEYS[1] is always `state`.

use redis::Script;

/// Makes a new store's state, refuses a layout that it does not know, and defines what writes share.
///
/// `log` takes the revision `step` on from the present one, logs a change under it, and takes away what
/// is beyond `kept`. Numbers are written by `%.0f`: Lua would write large ones as 1e+15.
const PRELUDE: &str = r"
local version = redis.call('HGET', KEYS[1], 'version')
if not version then
    local time = redis.call('TIME')
    local birth = string.format('%.0f', time[1] * 1000000 + time[2])
    redis.call('HSET', KEYS[1], 'version', '1', 'revision', birth, 'floor', birth)
elseif version ~= '1' then
    return redis.error_reply('LAYOUT ' .. version .. ' is not known')
end

local function log(changes, kept, step, kind, name)
    local present = redis.call('HGET', KEYS[1], 'revision')
    local revision = string.format('%.0f', tonumber(present) + step)
    redis.call('HSET', KEYS[1], 'revision', revision)
    redis.call('XADD', changes, revision .. '-0', kind, name)
    while redis.call('XLEN', changes) > tonumber(kept) do
        local oldest = redis.call('XRANGE', changes, '-', '+', 'COUNT', 1)[1][1]
        redis.call('XDEL', changes, oldest)
        redis.call('HSET', KEYS[1], 'floor', string.match(oldest, '^%d+'))
    end
    return revision
end

-- A record is its revision, a colon, and bytes.
local function revision_of(record)
    return string.match(record, '^%d+')
end
";

/// KEYS: state, changes, webhooks, ids, the account's ids, the request.
/// ARGV: kept, id, bytes, now in ms or '' without a request, how long requests are kept in ms, fingerprint.
const CREATE: &str = r"
local has_request = ARGV[4] ~= ''
if has_request then
    local known = redis.call('HMGET', KEYS[6], 'made_at', 'fingerprint', 'record')
    if known[1] and tonumber(known[1]) + tonumber(ARGV[5]) > tonumber(ARGV[4]) then
        if known[2] ~= ARGV[6] then return {'conflict', ''} end
        return {'repeat', known[3]}
    end
end
local revision = log(KEYS[2], ARGV[1], 1, 'put', ARGV[2])
local record = revision .. ':' .. ARGV[3]
redis.call('HSET', KEYS[3], ARGV[2], record)
redis.call('ZADD', KEYS[4], 0, ARGV[2])
redis.call('ZADD', KEYS[5], 0, ARGV[2])
if has_request then
    redis.call('HSET', KEYS[6], 'made_at', ARGV[4], 'fingerprint', ARGV[6], 'record', record)
    -- An hour more, for clocks that differ: `made_at` decides.
    redis.call('PEXPIRE', KEYS[6], ARGV[5] + 3600000)
end
return {'done', revision}
";

/// KEYS: state, changes, webhooks. ARGV: kept, id, bytes, expected revision.
const UPDATE: &str = r"
local record = redis.call('HGET', KEYS[3], ARGV[2])
if not record then return {'gone', ''} end
if revision_of(record) ~= ARGV[4] then return {'changed', ''} end
local revision = log(KEYS[2], ARGV[1], 1, 'put', ARGV[2])
redis.call('HSET', KEYS[3], ARGV[2], revision .. ':' .. ARGV[3])
return {'done', revision}
";

/// KEYS: state, changes, webhooks, ids, the account's ids. ARGV: kept, id, expected revision or ''.
const DELETE: &str = r"
local record = redis.call('HGET', KEYS[3], ARGV[2])
if not record then return {'gone', ''} end
if ARGV[3] ~= '' and revision_of(record) ~= ARGV[3] then return {'changed', ''} end
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('ZREM', KEYS[4], ARGV[2])
redis.call('ZREM', KEYS[5], ARGV[2])
return {'done', log(KEYS[2], ARGV[1], 1, 'deleted', ARGV[2])}
";

/// KEYS: state, accounts. ARGV: license code, the account if there is none.
const ACCOUNT: &str = r"
redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2])
return redis.call('HGET', KEYS[2], ARGV[1])
";

/// KEYS: state, changes, accounts. ARGV: kept, license code, now in ms, key.
const ROTATE: &str = r"
local account = redis.call('HGET', KEYS[3], ARGV[2])
local made_at = account and string.match(account, '^%d+') or ARGV[3]
account = made_at .. ':' .. ARGV[4]
redis.call('HSET', KEYS[3], ARGV[2], account)
return {account, log(KEYS[2], ARGV[1], 2, 'account', ARGV[2])}
";

/// KEYS: state.
const REVISION: &str = r"
return redis.call('HGET', KEYS[1], 'revision')
";

/// KEYS: state, changes. ARGV: after, limit. Gives false, or kind, name and revision of each, one after
/// the other.
const CHANGES: &str = r"
local state = redis.call('HMGET', KEYS[1], 'floor', 'revision')
local after = tonumber(ARGV[1])
if after < tonumber(state[1]) or after > tonumber(state[2]) then return false end
local from = string.format('%.0f', after + 1) .. '-0'
local page = {}
for _, change in ipairs(redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', ARGV[2])) do
    page[#page + 1] = change[2][1]
    page[#page + 1] = change[2][2]
    page[#page + 1] = string.match(change[1], '^%d+')
end
return page
";

/// KEYS: state, webhooks, ids (all, or an account's). ARGV: where the range starts, limit.
const LIST: &str = r"
local records = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], ARGV[1], '+', 'BYLEX', 'LIMIT', 0, ARGV[2])) do
    records[#records + 1] = redis.call('HGET', KEYS[2], id)
end
return records
";

pub struct Scripts {
    pub create: Script,
    pub update: Script,
    pub delete: Script,
    pub account: Script,
    pub rotate: Script,
    pub revision: Script,
    pub changes: Script,
    pub list: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        let script = |step: &str| Script::new(&format!("{PRELUDE}{step}"));
        Self {
            create: script(CREATE),
            update: script(UPDATE),
            delete: script(DELETE),
            account: script(ACCOUNT),
            rotate: script(ROTATE),
            revision: script(REVISION),
            changes: script(CHANGES),
            list: script(LIST),
        }
    }
}
