-- The newest deliveries of lanes. ARGV[3…]: how many of each index, the indexes ("open:", "ok:", "failed:")
-- joined by spaces, from place; then for each lane: its id, up to which place. Answers for each lane and
-- index { id, place, id, place … }, newest first.
local answers = {}
for i = 6, #ARGV, 2 do
  for set in string.gmatch(ARGV[4], '%S+') do
    answers[#answers + 1] = redis.call('ZRANGE', base .. set .. ARGV[i], ARGV[i + 1], ARGV[5], 'BYSCORE', 'REV',
      'LIMIT', 0, ARGV[3], 'WITHSCORES')
  end
end
return answers
