-- History by count and by age, a bounded number at a time. `aging` says when a lane is looked at next.
local function forget(key, ids, with_bodies)
  each('HDEL', heads, ids)
  if with_bodies then each('HDEL', bodies, ids) end
end

-- Cuts an index back to what is kept, now and then: a sixteenth more may stand meanwhile. `count` is how
-- many stand there.
local function trim(set, lane, kept, count)
  if count <= kept + math.floor(kept / 16) then return count end
  local key = base .. set .. lane
  local over = math.min(count - kept, 1000)
  local ids = redis.call('ZRANGE', key, 0, over - 1)
  redis.call('ZREMRANGEBYRANK', key, 0, over - 1)
  forget(key, ids, set == 'failed:')
  return count - #ids
end

-- Forgets what is too old. A lane of which nothing is left goes too.
local function sweep(lane, ended_age, failed_age)
  local next
  for set, age in pairs({ ['ok:'] = ended_age, ['failed:'] = failed_age }) do
    local key = base .. set .. lane
    local ids = redis.call('ZRANGE', key, '-inf', '(' .. string.format('%.0f', math.max(0, now - age) * 2048),
      'BYSCORE', 'LIMIT', 0, 500)
    if #ids > 0 then
      each('ZREM', key, ids)
      forget(key, ids, set == 'failed:')
      if set == 'ok:' then redis.call('HDEL', base .. 'lane:' .. lane, 'ended') end
    end
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if first[2] then
      local at = math.floor(first[2] / 2048) + age + 1
      if not next or at < next then next = at end
    end
  end
  local key = base .. 'lane:' .. lane
  if next then
    redis.call('ZADD', base .. 'aging', next, lane)
    redis.call('HSET', key, 'age', next)
    return
  end
  redis.call('ZREM', base .. 'aging', lane)
  redis.call('HDEL', key, 'age')
  local r = redis.call('HMGET', key, 'holder', 'hold', 'memo')
  if (r[1] or '') == '' and tonumber(r[2] or 0) <= now and (r[3] or '') == ''
    and redis.call('EXISTS', base .. 'open:' .. lane) == 0 then
    redis.call('DEL', key)
    redis.call('ZREM', lanes, lane)
  end
end

-- Sees to it that a lane with history is looked at in time.
local function aging(lane, age, ended_age, failed_age)
  if not age then
    local at = now + math.min(ended_age, failed_age)
    redis.call('ZADD', base .. 'aging', at, lane)
    redis.call('HSET', base .. 'lane:' .. lane, 'age', at)
  elseif tonumber(age) <= now then
    sweep(lane, ended_age, failed_age)
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
