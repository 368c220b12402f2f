-- The newest deliveries of lanes. ARGV[3…]: how many of each index, the indexes ("open:", "ok:", "failed:")
-- joined by spaces, from place; then for each lane: its id, up to which place. Answers for each lane and
-- index { id, place, id, place … }, newest first; of "ok:" all its entries, in one string.
local answers = {}
for i = 6, #ARGV, 2 do
  local l = whole_lane_at(ARGV[i])
  for set in string.gmatch(ARGV[4], '%S+') do
    if set == 'ok:' then
      local blobs = redis.call('LRANGE', base .. 'ok:' .. ARGV[i], 0, -1)
      blobs[#blobs + 1] = l and recent_of(l)
      answers[#answers + 1] = table.concat(blobs)
    elseif set == 'open:' then
      local lane, upper = ARGV[i], lane_end(ARGV[i])
      local below = tonumber(string.sub(ARGV[i + 1], 2))
      if ARGV[i + 1] ~= '+inf' then upper = '(' .. lane .. struct.pack('>I8', math.min(below, PARKED)) end
      local lower = from_place(lane, math.min(tonumber(ARGV[5]), PARKED))
      local answer, most = {}, tonumber(ARGV[3])
      if l and l.lone ~= NONE and l.last >= tonumber(ARGV[5]) and (not below or l.last < below) then
        answer, most = { l.lone, l.last }, most - 1
      end
      for _, entry in ipairs(redis.call('ZRANGE', open, upper, lower, 'BYLEX', 'REV', 'LIMIT', 0, most)) do
        answer[#answer + 1], answer[#answer + 2] = id_of(entry), place_of(entry)
      end
      answers[#answers + 1] = answer
    else
      answers[#answers + 1] = redis.call('ZRANGE', base .. set .. ARGV[i], ARGV[i + 1], ARGV[5], 'BYSCORE', 'REV',
        'LIMIT', 0, ARGV[3], 'WITHSCORES')
    end
  end
end
return answers
