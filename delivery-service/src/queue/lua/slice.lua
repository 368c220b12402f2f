-- The next of a bulk retry. ARGV[3…]: the lane, how many at most. Answers nil when it is over, 0 while as many
-- wait for their turn, else { from place, last place, how many were looked at, record, record … }.
local lane, most = ARGV[3], tonumber(ARGV[4])
local l = lane_at(lane)
if not l or l.bulk_to == 0 then
  redis.call('ZREM', base .. 'bulk', lane)
  return nil
end
if redis.call('ZCOUNT', base .. 'sched:' .. lane, '-inf', now) >= most then return 0 end
local found = redis.call('ZRANGE', base .. 'failed:' .. lane, string.format('%.0f', l.bulk),
  '(' .. string.format('%.0f', l.bulk_to), 'BYSCORE', 'LIMIT', 0, most, 'WITHSCORES')
local ids = {}
for i = 1, #found, 2 do ids[#ids + 1] = found[i] end
local answer = { l.bulk, tonumber(found[#found] or 0), #ids }
for _, record in ipairs(values(heads, ids)) do
  if record then
    local _, size, kind = struct.unpack(MARK, record)
    -- Those without a body cannot be sent.
    if kind == FAILED and size > 0 then answer[#answer + 1] = record end
  end
end
return answer
