-- Says that the holder lives and leases it due lanes. ARGV[3…]: lanes, deliveries and bytes of a page,
-- whether scheduled ones are read early, whether to look for dead holders and old history, lease ms, ages
-- of ended and failed (ms), whether to say what is held, dedupe window ms, from where on to look for old history,
-- whether the last answer was heard.
-- Answers { ms until another lane is due (-1: none), news, lanes, damaged lanes with reasons, what is held
-- with fences and ms on hold, ms until another holder may be dead (-1: none), where to go on looking }; a lane is
-- { id, fence, license, ms on hold, memo, page }.
local count, max_count, max_bytes, early = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'
local holders, mine = base .. 'holders', base .. 'held:' .. me
local ended_age, failed_age, turn = tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[13]

-- A holder that was silent for too long has lost its leases too.
if ARGV[7] == '1' then
  for _, dead in ipairs(redis.call('ZRANGE', holders, '-inf', '(' .. string.format('%.0f', now - ARGV[8]),
    'BYSCORE', 'LIMIT', 0, 16)) do
    local left = redis.call('SPOP', base .. 'held:' .. dead, 500)
    for i, value in ipairs(values(states, left)) do
      local l = value and #value >= LANE_SIZE and lane_of(value)
      if l and l.holder == dead then
        l.holder = NOBODY
        keep(left[i], l)
        redis.call('ZADD', lanes, now, left[i])
      end
    end
    if #left < 500 then
      redis.call('ZREM', holders, dead)
      redis.call('DEL', base .. 'news:' .. dead, base .. 'told:' .. dead)
    end
  end
  -- All lanes in turn, a hundred at a time; of those that have old history four, for that takes longer.
  local part, swept = redis.call('HSCAN', states, turn, 'COUNT', 100), 0
  local found = part[2]
  for i = 1, #found, 2 do
    local age = #found[i + 1] >= LANE_SIZE and struct.unpack('>I8', found[i + 1], AGE) or 0
    if age > 0 and age <= now and swept < 4 then
      swept = swept + 1
      local l = lane_of(found[i + 1])
      -- One whose history is damaged has its turn again with the others.
      if not pcall(sweep, found[i], l, ended_age, failed_age) then l.age = now + math.min(ended_age, failed_age) end
      keep(found[i], l)
    end
  end
  if swept < 4 then turn = part[1] end
  forget_events(tonumber(ARGV[12]))
end

redis.call('ZADD', holders, now, me)

-- When the next holder will have been silent for too long, if it stays so.
local lapse = -1
if ARGV[7] == '1' then
  local oldest = redis.call('ZRANGE', holders, 0, 0, 'WITHSCORES')
  if oldest[1] ~= me then lapse = math.max(1, oldest[2] + ARGV[8] + 1 - now) end
end

-- Leases a lane; nil when there is nothing in it.
local function grant(lane)
  local l = lane_at(lane)
  if not l then return nil end
  index_lone(lane, l)
  local first = page(lane, l.last, l.done, 0, early, max_count, max_bytes)
  if #first == 3 and first[2] == 0 and not has_open(lane) then
    l.n, l.bytes = 0, 0
    keep(lane, l)
    return nil
  end
  l.fence, l.holder = fence_after(l.fence), me
  keep(lane, l)
  return { lane, l.fence, license_of(l), l.hold == PARKED and 0 or math.max(0, l.hold - now), memo_of(l), first }
end

local given, ids, gone, damaged = {}, {}, {}, {}
local found = redis.call('ZRANGE', lanes, 0, count, 'WITHSCORES')
for i = 1, count * 2, 2 do
  local lane = found[i]
  if not lane or tonumber(found[i + 1]) > now then break end
  local done, answer = pcall(grant, lane)
  if done then
    gone[#gone + 1] = lane
    if answer then given[#given + 1], ids[#ids + 1] = answer, lane end
  else
    -- Its own damage, and not its neighbours': it waits until it is woken.
    redis.call('ZADD', lanes, '+inf', lane)
    damaged[#damaged + 1], damaged[#damaged + 2] = lane, reason(answer)
  end
end
each('ZREM', lanes, gone)
each('SADD', mine, ids)

local next = -1
local first = (#gone > 0 or #damaged > 0) and redis.call('ZRANGE', lanes, 0, 0, 'WITHSCORES') or found
if first[2] and first[2] ~= 'inf' then next = math.max(0, first[2] - now) end

local held = {}
if ARGV[11] == '1' then
  local all, lost = redis.call('SMEMBERS', mine), {}
  for i, value in ipairs(values(states, all)) do
    local l = value and #value >= LANE_SIZE and lane_of(value)
    if l then
      held[#held + 1], held[#held + 2] = all[i], l.fence
      held[#held + 1] = l.hold ~= PARKED and math.max(0, l.hold - now) or 0
    else
      -- Damaged or gone: it can be held by nobody, and could not be given back either.
      lost[#lost + 1] = all[i]
    end
  end
  each('SREM', mine, lost)
end

-- News that nobody heard come again, with others.
local told, news = base .. 'told:' .. me, redis.call('SPOP', base .. 'news:' .. me, 1000)
if ARGV[14] == '1' then redis.call('DEL', told) end
each('SADD', told, news)
if ARGV[14] ~= '1' then news = redis.call('SMEMBERS', told) end
return { next, news, given, damaged, held, lapse, turn }
