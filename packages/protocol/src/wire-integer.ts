/** msgpackr writes numbers of more than 32 bits as floats; a BigInt becomes an integer of 64 bits. */
export function wireInteger(value: number): number | bigint {
  return value > 0xffff_ffff ? BigInt(value) : value;
}
