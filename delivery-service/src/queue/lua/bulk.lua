-- Notes a bulk retry. ARGV[3…]: the lane, from place, to place . Answers how many
-- failed ones it is of; -1 when one is under way.
local lane, from, to = ARGV[3], ARGV[4], ARGV[5]
local l = lane_at(lane)
if not l then return 0 end
if l.bulk_to > 0 then return -1 end
if tonumber(to) > l.last then to = string.format('%.0f', l.last + 1) end
local count = redis.call('ZCOUNT', base .. 'failed:' .. lane, from, '(' .. to)
if count > 0 then
  l.bulk, l.bulk_to = tonumber(from), tonumber(to)
  keep(lane, l)
  redis.call('ZADD', base .. 'bulk', now, lane)
end
return count
