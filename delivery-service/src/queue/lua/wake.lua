-- Makes lanes due now. ARGV[3]: a lane, or "" for up to 500 that are parked. Answers how many it woke.
local list = { ARGV[3] }
if ARGV[3] == '' then list = redis.call('SPOP', base .. 'parked', 500) end
for _, lane in ipairs(list) do
  local l = lane_at(lane)
  if l and (ARGV[3] ~= '' or l.hold == PARKED) then
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
