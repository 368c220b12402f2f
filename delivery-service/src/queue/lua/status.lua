-- How a lane stands. ARGV[3]: the lane. Answers { whether it is known, open, failed, ms since the oldest open
-- one was accepted (-1: none) }.
local lane = ARGV[3]
local l = whole_lane_at(lane)
local count, first = redis.call('ZLEXCOUNT', open, '[' .. lane, lane_end(lane)), open_from(lane, 0, 1)
local place = first[1] and place_of(first[1])
if l and l.lone ~= NONE then count, place = count + 1, place or l.last end
return { redis.call('HEXISTS', states, lane), count, redis.call('ZCARD', base .. 'failed:' .. lane),
  place and math.max(0, now - math.floor(place / 2048)) or -1 }
