-- The newest deliveries of lanes. ARGV[3…]: how many of each index, the indexes ("open:", "ok:", "failed:")
-- joined by spaces, from place; then for each lane: its id, up to which place. Answers for each lane and
-- index { id, place, id, place … }, newest first; of "ok:" all its entries, in one string.
local answers = {}
for i = 6, #ARGV, 2 do
  for set in string.gmatch(ARGV[4], '%S+') do
    if set == 'ok:' then
      local l = lane_at(ARGV[i])
      local blobs = redis.call('LRANGE', base .. 'ok:' .. ARGV[i], 0, -1)
      blobs[#blobs + 1] = l and recent_of(l)
      answers[#answers + 1] = table.concat(blobs)
    else
      answers[#answers + 1] = redis.call('ZRANGE', base .. set .. ARGV[i], ARGV[i + 1], ARGV[5], 'BYSCORE', 'REV',
        'LIMIT', 0, ARGV[3], 'WITHSCORES')
    end
  end
end
return answers
