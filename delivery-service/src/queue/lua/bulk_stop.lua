-- Ends a bulk retry. ARGV[3]: the lane.
local l = lane_at(ARGV[3])
if l then
  l.bulk, l.bulk_to = 0, 0
  keep(ARGV[3], l)
end
return redis.call('ZREM', base .. 'bulk', ARGV[3])
