-- Open deliveries of a lane that is held, in order of place. ARGV[3…]: lane, fence, after, how many.
-- Answers 0 when the lease is lost, or { read to, more, value, ms until it is due (-1: fresh), value … }.
local lane, count = ARGV[3], tonumber(ARGV[6])
local l = lane_at(lane)
if not is_mine(l, ARGV[4]) then return 0 end
index_lone(lane, l)
local sched = base .. 'sched:' .. lane
local read_to, list = tonumber(ARGV[5]), {}
local found = open_from(lane, read_to + 1, count)
for i, entry in ipairs(found) do list[i] = id_of(entry) end
local more = #list == count
if more then read_to = place_of(found[count]) else read_to = math.max(read_to, l.last) end
local answer = { read_to, more and 1 or 0 }
local records = values(heads, list)
local dues = #list > 0 and redis.call('ZMSCORE', sched, unpack(list)) or {}
for i, id in ipairs(list) do
  if not records[i] then
    -- In an index without a record: gone with a part of the store.
    redis.call('ZREM', open, found[i])
    redis.call('ZREM', sched, id)
  else
    answer[#answer + 1] = records[i]
    answer[#answer + 1] = dues[i] and math.max(0, tonumber(dues[i]) - now) or -1
  end
end
return answer
