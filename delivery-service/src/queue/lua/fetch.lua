-- Deliveries of a lane that is held, with their bodies. ARGV[3…]: lane, fence, bytes, ids. Answers 0 when
-- the lease is lost, or { value, body, value, body … } of the first ones; nil for one that is not open.
if not is_mine(lane_at(ARGV[3]), ARGV[4]) then return 0 end
local ids, bytes = {}, tonumber(ARGV[5])
for i = 6, #ARGV do ids[#ids + 1] = ARGV[i] end
local records, answer, wanted = values(heads, ids), {}, {}
for i, record in ipairs(records) do
  if record then
    local _, size, kind = struct.unpack(MARK, record)
    if kind >= ENDED then
      records[i] = false
    else
      bytes = bytes - size
      if bytes < 0 and i > 1 then break end
    end
  end
  wanted[i] = ids[i]
end
local texts = bodies_of(wanted)
for i = 1, #wanted do
  answer[i * 2 - 1] = records[i]
  answer[i * 2] = records[i] and texts[i] or false
end
return answer
