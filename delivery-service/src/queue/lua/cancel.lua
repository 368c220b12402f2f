-- Withdraws open deliveries of a lane. ARGV[3…]: the lane, how many at most, kept ended, ages of ended and
-- failed (ms), up to which place ("": all there are now), then, when only some are named, their ids.
-- Answers { up to which place others wait (0: none), record, record … } as they now are.
local lane, most, to = ARGV[3], tonumber(ARGV[4]), ARGV[8]
local key, open, sched = base .. 'lane:' .. lane, base .. 'open:' .. lane, base .. 'sched:' .. lane
local r = redis.call('HMGET', key, 'last', 'holder', 'n', 'bytes', 'age', 'ended')
if not r[1] then return { 0 } end

local found, rest = {}, 0
if #ARGV > 8 then
  local named = { unpack(ARGV, 9) }
  for i, place in ipairs(redis.call('ZMSCORE', open, unpack(named))) do
    if place then found[#found + 1] = named[i] end
  end
else
  if to == '' then to = r[1] end
  found = redis.call('ZRANGE', open, '-inf', to, 'BYSCORE', 'LIMIT', 0, most + 1)
  if #found > most then
    found[#found] = nil
    rest = to
  end
end

local answer, records, places, dropped, bytes = { tonumber(rest) }, {}, {}, {}, tonumber(r[4] or 0)
local stored = values(heads, found)
for i, id in ipairs(found) do
  dropped[#dropped + 1] = id
  -- One without a record is gone with a part of the store.
  if stored[i] then
    local place, size, kind, _, renewed = struct.unpack(MARK, stored[i])
    if kind < ENDED then
      local record = struct.pack(MARK, place, 0, ENDED, WITHDRAWN, renewed) .. withdrawn(string.sub(stored[i], 19))
      records[#records + 1], records[#records + 2] = id, record
      places[#places + 1], places[#places + 2] = place, id
      answer[#answer + 1] = record
      bytes = bytes - size
    end
  end
end
if #dropped == 0 then return answer end

each('HSET', heads, records)
each('HDEL', bodies, dropped)
local n = tonumber(r[3] or 0) - each('ZREM', open, dropped)
each('ZREM', sched, dropped)
local count = (tonumber(r[6]) or redis.call('ZCARD', base .. 'ok:' .. lane)) + each('ZADD', base .. 'ok:' .. lane, places)
redis.call('HSET', key, 'n', math.max(0, n), 'bytes', math.max(0, bytes),
  'ended', trim('ok:', lane, tonumber(ARGV[5]), count))
aging(lane, r[5], tonumber(ARGV[6]), tonumber(ARGV[7]))
if (r[2] or '') ~= '' and r[2] ~= me then
  redis.call('SADD', base .. 'news:' .. r[2], lane .. 'c')
end
return answer
