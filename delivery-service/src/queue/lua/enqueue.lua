-- Stores deliveries, lane by lane. ARGV[3…]: dedupe window ms, backlog count and bytes, kept failed, ages of
-- ended and failed (ms), what makes a head one of a full lane, "1" if bodies come with the heads, "1" if some
-- share theirs; how many event digests follow, and these, in the order of their deliveries; then for each lane: id,
-- HOW and license, and for each delivery: id, its mark but the place, and its head, perhaps body (a shared one with
-- the first, the others have ""). Else the bodies are there already, in the same transaction: Lua hashes every byte
-- of what it is given.
-- Answers { a fence, a place, 1 when no lane was known before (the store is new, or was emptied), lanes }. A lane of
-- which all were stored is its last place before, when it was given now with this fence, and its first got this
-- place; else PLAIN: who (a fence, -1 due, 0 not now), 1 if it was given now, last place before, place of the first.
-- Other lanes are lists: an error's text; or who, 1 if given, last place before, and for each delivery its place, its
-- place negated when it ended at once, or the id of the one there was.
local PLAIN = '>i8BI8I8'
-- How a lane's deliveries are stored: all with a digest, no two the same ("d"), all without ("n"), or with a letter
-- each behind ("m"): "n", or "f": fails at once; "N" and "F" have a digest. Then how many, and their bodies' bytes;
-- behind it the letters, and the license.
local HOW, HOW_SIZE = '>BI4I8', 13
local DIGESTS, MIXED = string.byte('dm', 1, 2)
local window, max_count, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local failed_kept, ended_age, failed_age, full = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local opened, new_heads, new_bodies, unwanted, granted, due = {}, {}, {}, {}, {}, {}
local changed, failing, made, sharers = {}, {}, {}, {}

-- Events are noted when all else is done: what fails before leaves none that would be taken for stored.
local digests, noted, known, bucket, since = tonumber(ARGV[12]), {}, nil, nil, nil
if digests > 0 then known, bucket, since = events(window, 13, 12 + digests) end
local digest, each_takes, floor, sharing = 12, ARGV[10] == '1' and 3 or 2, now * 2048, ARGV[11] == '1'
local repeats = digests > 0 and next(known) ~= nil

-- Whose a lane is that has more to do, and whether it was given now.
local function grant(lane, fence, holder, hold, had, memo_size)
  if holder == me then return fence, 0 end
  if holder ~= NOBODY then
    if redis.call('SADD', base .. 'news:' .. holder, lane) == 1 then hint(holder, lane) end
    return 0, 0
  end
  if hold > now then
    -- On hold or parked, and perhaps found empty since: it is due when that is over.
    due[#due + 1], due[#due + 2] = hold == PARKED and '+inf' or hold, lane
    return 0, 0
  end
  if had > 0 or memo_size > 0 then
    due[#due + 1], due[#due + 2] = now, lane
    return -1, 0
  end
  granted[#granted + 1] = lane
  return fence_after(fence), 1
end

-- Places from the floor on, packed: most lanes' deliveries get the same ones.
local packed_places = {}

-- How much there is in what is written for all lanes together: Lua would count it anew each time.
local o, h, b, e, c, m, s = 0, 0, 0, 0, 0, 0, 0

-- A delivery's body is needed.
local function need(id, body)
  local field = shared(id)
  if field then
    s = s + 1
    sharers[s] = field
  elseif each_takes == 3 then
    new_bodies[b + 1], new_bodies[b + 2], b = id, body, b + 2
  end
end

local function license_in(at, letter, count)
  return string.sub(ARGV[at + 1], HOW_SIZE + 1 + (letter == MIXED and count or 0))
end

local all, starts, letters, counts, sizes = {}, {}, {}, {}, {}
do
  local at, k, last = 13 + digests, 0, #ARGV
  while at <= last do
    k = k + 1
    all[k], starts[k] = ARGV[at], at
    letters[k], counts[k], sizes[k] = struct.unpack(HOW, ARGV[at + 1])
    at = at + 2 + counts[k] * each_takes
  end
end

-- Lanes of which all are stored, where nothing is to be looked at one by one. This is no function: one that uses so
-- much would cost each call more than it does for a delivery.
local answers, stored, emptied, rest, firsts = {}, values(states, all), false, {}, {}
for i, lane in ipairs(all) do
  local value, at, letter, count = stored[i], starts[i], letters[i], counts[i]
  local fence, holder, before, n, bytes, hold, lone = 0, NOBODY, 0, 0, 0, 0, NONE
  local plain = letter ~= MIXED and (not value or #value >= LANE_SIZE)
  if plain and value then fence, holder, before, n, bytes, hold, lone = struct.unpack(FRONT, value) end
  plain = plain and n + count <= max_count and bytes + sizes[i] <= max_bytes
  if plain and repeats and letter == DIGESTS then
    for k = digest + 1, digest + count do plain = plain and not known[ARGV[k]] end
  end
  local who, given, done = fence, 0, true
  if plain and holder ~= me then
    local memo_size = value and struct.unpack('>I4', value, MEMO_SIZE) or 0
    if holder == NOBODY and hold <= now and n == 0 and memo_size == 0 then
      -- What `grant` says of a free, empty lane, as most that are not ours are: a protected call costs.
      granted[#granted + 1], who, given = lane, fence_after(fence), 1
    else
      done, who, given = pcall(grant, lane, fence, holder, hold, n, memo_size)
    end
    if given == 1 then fence, holder = who, me end
  end
  if plain and done then
    local at, first, alone = at + 2, before < floor and floor or before + 1, n == 0 and count == 1
    if lone ~= NONE then
      opened[o + 1], opened[o + 2], o, lone = '0', lane .. struct.pack('>I8', before) .. lone, o + 2, NONE
    end
    for place = first, first + count - 1 do
      local id, packed_place = ARGV[at], packed_places[place - floor]
      if not packed_place then
        packed_place = struct.pack('>I8', place)
        packed_places[place - floor] = packed_place
      end
      if alone then lone = id else opened[o + 1], opened[o + 2], o = '0', lane .. packed_place .. id, o + 2 end
      new_heads[h + 1], new_heads[h + 2], h = id, packed_place .. ARGV[at + 1], h + 2
      if letter == DIGESTS then
        digest = digest + 1
        noted[e + 1], noted[e + 2], e = ARGV[digest], id .. since, e + 2
      end
      if sharing or each_takes == 3 then need(id, ARGV[at + 2]) end
      at = at + each_takes
    end
    local last = first + count - 1
    n, bytes, c = n + count, bytes + sizes[i], c + 2
    changed[c - 1] = lane
    if value then
      changed[c] = struct.pack(FRONT, fence, holder, last, n, bytes, hold, lone) .. string.sub(value, BEHIND)
    else
      local license = license_in(starts[i], letter, count)
      changed[c] = struct.pack(NEW, fence, holder, last, n, bytes, hold, lone, blank_rest(license), license)
      made[m + 1], made[m + 2], m = '0', of_account(license, lane), m + 2
    end
    if given == 1 and who == micros and first == floor then
      answers[i] = before
    else
      answers[i] = struct.pack(PLAIN, who, given, before, first)
    end
  elseif plain then
    answers[i] = { reason(who) }
    for k = 0, count - 1 do unwanted[#unwanted + 1] = ARGV[at + 2 + k * each_takes] end
    if letter == DIGESTS then digest = digest + count end
  else
    rest[#rest + 1], firsts[i] = i, digest
    for k = 1, count do
      if letter == DIGESTS or letter == MIXED and string.byte(ARGV[at + 1], HOW_SIZE + k) < 97 then
        digest = digest + 1
      end
    end
  end
end

-- The others, one by one.
local trim
if #rest > 0 then
  --@here
  local function enqueue_each(lane, value, at, letter, count)
    local license = license_in(at, letter, count)
    local l = value and lane_of(value) or new_lane(license)
    local last, n, bytes, had, failed = l.last, l.n, l.bytes, l.n, {}
    local answer, hows = { 0, 0, last }, ARGV[at + 1]
    for k = 1, count do
      local i, how, event = at + 2 + (k - 1) * each_takes, letter == DIGESTS and 78 or 110, nil
      local id, head = ARGV[i], ARGV[i + 1]
      local size = struct.unpack('>I4', head)
      if letter == MIXED then how = string.byte(hows, HOW_SIZE + k) end
      if how < 97 then
        digest = digest + 1
        event, how = ARGV[digest], how + 32
      end
      if event and known[event] then
        answer[k + 3] = known[event]
        if known[event] ~= id then unwanted[#unwanted + 1] = id end
      else
        last = last < floor and floor or last + 1
        if event then
          known[event] = id
          noted[e + 1], noted[e + 2], e = event, id .. since, e + 2
        end
        answer[k + 3] = last
        if how == 110 and n < max_count and bytes + size <= max_bytes then
          n, bytes = n + 1, bytes + size
          need(id, ARGV[i + 2])
          opened[o + 1], opened[o + 2], o = '0', member(lane, last, id), o + 2
        else
          if how == 110 then
            unwanted[#unwanted + 1] = id
            head = struct.pack('>I4BBI4', 0, FAILED, 0, 0) .. string.sub(head, 11) .. full
          else
            need(id, ARGV[i + 2])
          end
          failed[#failed + 1], failed[#failed + 2] = last, id
          answer[k + 3] = -last
        end
        new_heads[h + 1], new_heads[h + 2], h = id, struct.pack('>I8', last) .. head, h + 2
      end
    end
    if last == l.last then return answer end
    if l.lone ~= NONE then opened[o + 1], opened[o + 2], o, l.lone = '0', member(lane, l.last, l.lone), o + 2, NONE end
    if not value then made[m + 1], made[m + 2], m = '0', of_account(license, lane), m + 2 end
    l.last, l.bytes = last, bytes
    if #failed > 0 then each('ZADD', base .. 'failed:' .. lane, failed) end
    if n > had then
      l.n = n
      answer[1], answer[2] = grant(lane, l.fence, l.holder, l.hold, had, l.memo_size)
      if answer[2] == 1 then l.fence, l.holder = answer[1], me end
    end
    if #failed > 0 then
      failing[#failing + 1], failing[#failing + 2] = lane, l
    else
      changed[c + 1], changed[c + 2], c = lane, packed(l), c + 2
    end
    return answer
  end

  local function cut(list, from, to)
    for i = to, from + 1, -1 do list[i] = nil end
  end

  for _, i in ipairs(rest) do
    local o_was, h_was, b_was, e_was, c_was, m_was, s_was = o, h, b, e, c, m, s
    digest = firsts[i]
    local done, answer = pcall(enqueue_each, all[i], stored[i], starts[i], letters[i], counts[i])
    answers[i] = answer
    if not done then
      -- Nothing of this lane stays.
      answers[i] = { reason(answer) }
      cut(opened, o_was, o)
      cut(new_heads, h_was, h)
      cut(new_bodies, b_was, b)
      cut(noted, e_was, e)
      cut(changed, c_was, c)
      cut(made, m_was, m)
      cut(sharers, s_was, s)
      o, h, b, e, c, m, s = o_was, h_was, b_was, e_was, c_was, m_was, s_was
      for k = 0, counts[i] - 1 do unwanted[#unwanted + 1] = ARGV[starts[i] + 2 + k * each_takes] end
    end
  end

  trim = function()
    for i = 1, #failing, 2 do
      local lane, l = failing[i], failing[i + 1]
      trim_failed(lane, failed_kept)
      -- Who settles or claims looks at it in time.
      if l.age == 0 then l.age = now + math.min(ended_age, failed_age) end
      changed[c + 1], changed[c + 2], c = lane, packed(l), c + 2
    end
  end
end

local done, failure = pcall(function()
  each('HSET', heads, new_heads)
  if sharing then
    --@here
    -- Says who needs the shared bodies. One that nobody needs goes, if it is there already.
    share(sharers)
    if each_takes == 3 then
      local texts = {}
      for k = 1, #all do
        for at = starts[k] + 2, starts[k] + counts[k] * 3 - 1, 3 do
          local field = ARGV[at + 2] ~= '' and shared(ARGV[at])
          if field then texts[field] = ARGV[at + 2] end
        end
      end
      local _, needed = tally(sharers)
      for _, field in ipairs(needed) do new_bodies[b + 1], new_bodies[b + 2], b = field, texts[field], b + 2 end
    end
    local asked, gone = {}, {}
    for _, id in ipairs(unwanted) do
      local field = shared(id)
      if field then asked[#asked + 1] = field else gone[#gone + 1] = id end
    end
    for i, had in ipairs(values(shares, asked)) do
      if not had then gone[#gone + 1] = asked[i] end
    end
    unwanted = gone
  end
  each('HSET', bodies, new_bodies)
  each('HDEL', bodies, unwanted)
  each('ZADD', open, opened)
  if trim then trim() end
  if m > 0 then
    emptied = redis.call('EXISTS', states) == 0
    each('ZADD', accounts, made)
  end
  each('HSET', states, changed)
  if #granted > 0 then
    each('ZREM', lanes, granted)
    each('SADD', base .. 'held:' .. me, granted)
    -- So that it is missed if it never claims. Only that says that it lives.
    redis.call('ZADD', base .. 'holders', 'NX', now, me)
  end
  if #due > 0 then redis.call('ZADD', lanes, 'LT', unpack(due)) end
end)
if not done then return redis.error_reply(reason(failure)) end
each('HSET', bucket, noted)
return { micros, floor, emptied and 1 or 0, answers }
