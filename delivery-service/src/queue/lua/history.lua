-- History by count and by age, a bounded number at a time; a lane's `age` says when it is looked at next. What
-- has SUCCEEDED or was CANCELLED stands in order of its end, as places and ids, ENTRY bytes each: the newest
-- with the lane, the others in blobs of a list. FAILED ones are an index by place. Callers keep the lane after.
local ENTRY, RECENT, BLOB = 24, 8, 64

local function remember(lane, l, entries)
  local kept = #l.tail - l.license_size - l.memo_size
  l.ended = l.ended + #entries / ENTRY
  if kept + #entries < RECENT * ENTRY then
    l.tail = l.tail .. entries
    return
  end
  if kept > 0 then
    entries = recent_of(l) .. entries
    put(l, memo_of(l), '')
  end
  local blobs = {}
  for i = 1, #entries, BLOB * ENTRY do blobs[#blobs + 1] = string.sub(entries, i, i + BLOB * ENTRY - 1) end
  each('RPUSH', base .. 'ok:' .. lane, blobs)
end

-- With bodies, but for those that a full lane left without.
local function forget(ids, with_bodies)
  if with_bodies then
    local having = {}
    for i, value in ipairs(values(heads, ids)) do
      if value and struct.unpack('>I4', value, 9) > 0 then having[#having + 1] = ids[i] end
    end
    drop(having)
  end
  each('HDEL', heads, ids)
end

-- The ids of the first entries of a blob, behind those that are in the list.
local function ids_of(blob, count, list)
  for i = 9, count * ENTRY, ENTRY do list[#list + 1] = string.sub(blob, i, i + 15) end
end

-- How much history may stand before it is cut back to what is kept: a fifteenth more.
local function most_of(kept) return kept + math.floor(kept / 15) end

local function trim_ended(lane, l, kept)
  if l.ended <= most_of(kept) then return end
  local over, ids = math.min(l.ended - kept, 1000), {}
  l.ended = l.ended - over
  while over > 0 do
    local popped = redis.call('LPOP', base .. 'ok:' .. lane)
    local blob = popped or recent_of(l)
    local count = math.min(over, #blob / ENTRY)
    local rest = string.sub(blob, count * ENTRY + 1)
    ids_of(blob, count, ids)
    if not popped then
      put(l, memo_of(l), rest)
      break
    end
    if rest ~= '' then redis.call('LPUSH', base .. 'ok:' .. lane, rest) end
    over = over - count
  end
  forget(ids, false)
end

local function trim_failed(lane, kept)
  local key = base .. 'failed:' .. lane
  local count = redis.call('ZCARD', key)
  if count <= most_of(kept) then return end
  local over = math.min(count - kept, 1000)
  local ids = redis.call('ZRANGE', key, 0, over - 1)
  redis.call('ZREMRANGEBYRANK', key, 0, over - 1)
  forget(ids, true)
end

-- Forgets what is too old of the ended ones; the place at which the next one is.
local function sweep_ended(lane, l, horizon)
  local key, ids, next = base .. 'ok:' .. lane, {}, nil
  local blobs = redis.call('LRANGE', key, 0, 15)
  for i, blob in ipairs(blobs) do
    local newest = 0
    for at = 1, #blob, ENTRY do newest = math.max(newest, (struct.unpack('>I8', blob, at))) end
    if newest >= horizon then
      next = newest
      break
    end
    redis.call('LPOP', key)
    ids_of(blob, #blob / ENTRY, ids)
  end
  if #blobs < 16 and not next then
    local old, recent = 0, recent_of(l)
    for at = 1, #recent, ENTRY do
      next = struct.unpack('>I8', recent, at)
      if next >= horizon then break end
      old, next = old + 1, nil
    end
    ids_of(recent, old, ids)
    put(l, memo_of(l), string.sub(recent, old * ENTRY + 1))
  else
    next = next or horizon
  end
  l.ended = l.ended - #ids
  forget(ids, false)
  return next
end

-- Forgets what is too old. A lane of which nothing is left goes too; later, when something else keeps it yet.
local function sweep(lane, l, ended_age, failed_age)
  local function horizon(age) return math.max(0, now - age) * 2048 end
  local ended = sweep_ended(lane, l, horizon(ended_age))
  local key = base .. 'failed:' .. lane
  local ids = redis.call('ZRANGE', key, '-inf', '(' .. string.format('%.0f', horizon(failed_age)), 'BYSCORE',
    'LIMIT', 0, 500)
  if #ids > 0 then
    each('ZREM', key, ids)
    forget(ids, true)
  end
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  local next = math.huge
  if ended then next = math.floor(ended / 2048) + ended_age + 1 end
  if first[2] then next = math.min(next, math.floor(first[2] / 2048) + failed_age + 1) end
  if next < math.huge then
    l.age = next
    return
  end
  l.age = now + math.min(ended_age, failed_age)
  if l.holder == NOBODY and l.hold <= now and l.memo_size == 0 and l.lone == NONE and not has_open(lane) then
    l.gone = true
    redis.call('ZREM', lanes, lane)
    redis.call('ZREM', accounts, of_account(license_of(l), lane))
  end
end

-- Sees to it that a lane with history is looked at in time.
local function aging(lane, l, ended_age, failed_age)
  if l.age == 0 then
    l.age = now + math.min(ended_age, failed_age)
  elseif l.age <= now then
    sweep(lane, l, ended_age, failed_age)
  end
end

-- A head that had failed and is retried: RETRYING, and in no batch (state 9, batch_id 19).
local function failed_no_more(head)
  return head .. '\72\2\154\1\0'
end

-- A head that ends CANCELLED now: later fields win (state 9, end_ms 14, end_reason 15).
local function withdrawn(head)
  local time, left = '', now
  while left >= 128 do
    time = time .. string.char(left % 128 + 128)
    left = math.floor(left / 128)
  end
  return head .. '\72\5\112' .. time .. string.char(left) .. '\120\0'
end
