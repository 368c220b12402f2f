-- Makes lanes due now. ARGV[3…]: lanes; none: up to 500 that are parked. Answers how many there were. One that is
-- damaged does not keep the others: whoever works on it is told.
local these, list = #ARGV > 2, {}
if these then
  for i = 3, #ARGV do list[i - 2] = ARGV[i] end
else
  list = redis.call('SPOP', base .. 'parked', 500)
end
for i, value in ipairs(values(states, list)) do
  local lane, l = list[i], value and #value >= LANE_SIZE and lane_of(value)
  if l and (these or l.hold == PARKED) then
    if l.hold ~= 0 then
      l.hold = 0
      keep(lane, l)
    end
    redis.call('SREM', base .. 'parked', lane)
    if l.holder == NOBODY then
      redis.call('ZADD', lanes, 'XX', now, lane)
    else
      redis.call('SADD', base .. 'news:' .. l.holder, lane .. 'w')
      hint(l.holder, lane)
    end
  end
end
return #list
